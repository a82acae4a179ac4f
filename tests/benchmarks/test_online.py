"""Streams are of the tasks that they say, peers filter as they should, and figures are of the right moments."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from online_learned import Filtered
from online_methods import Copying, candidate, trainings
from online_outside import Usual, broken_robots, curve, found, learn, samples_of, surprise
from online_peers import Features, Kalman, LeastSquares, LowPass, Prior, Scaling
from online_restarts import Restarting
from online_scores import CERTAIN, SAMPLES, Followed, certainty, choose, follow, grid
from online_streams import DRIFT, JUMP, KINDS, Streams, between, simulated_streams, tasks_of_a_stream
from online_worlds import Logs, Simulated
from tables.online import online, online_certainty, online_outside, online_stays, online_streams

from msr_envs.hex_drive.family import HexDrive
from msr_envs.registry import load_family
from msr_envs.ring_nav.family import RingNav
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import learner_class
from msr_runtime.normalization import Normalization
from msr_runtime.task import Field, Group

FAMILIES = {"ring-nav": RingNav(), "hex-drive": HexDrive()}
UNIT = Scaling(np.zeros(2), np.ones(2), np.zeros(1), np.ones(1))
MIRROR = Group("C2", np.stack([np.eye(2), np.diag([1.0, -1.0])]), np.stack([np.eye(1), -np.eye(1)]))


def linear_streams(streams: int = 6, ticks: int = 60, noise: float = 0.0, seed: int = 0) -> Streams:
    """Streams of y = w x, with w ~ N(0, 1) of each stream, and queries of the same tick."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(streams, 1, 1, 2))
    x = rng.normal(size=(streams, ticks, 5, 2))
    y = np.sum(weights * x, -1, keepdims=True)
    seen = y + noise * rng.normal(size=y.shape)
    sides = [part.astype(np.float32) for part in (x[:, :, 0], seen[:, :, 0], x[:, :, 1:], seen[:, :, 1:])]
    return Streams(*sides, size=float(np.mean(y**2)), half_range=np.ones(1))


def prior(noise: float) -> Prior:
    """The truth of `linear_streams`."""
    basis = np.zeros((2, 3, 1))
    basis[[0, 1], [1, 2], 0] = 1
    return Prior(np.zeros((3, 1)), basis, np.full(1, noise**2 + 1e-9))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_jumps_or_drifts_as_it_says(family: str, kind: str) -> None:
    tasks = list(tasks_of_a_stream(FAMILIES[family], kind, np.random.default_rng(0), 2 * DRIFT))
    differ = [tick for tick in range(1, len(tasks)) if str(tasks[tick]) != str(tasks[tick - 1])]
    assert differ == {"stays": [], "jumps": [*range(JUMP, 2 * DRIFT, JUMP)], "drifts": [*range(1, 2 * DRIFT)]}[kind]


def test_a_task_between_two_stays_inside_the_ranges() -> None:
    """The mounting goes the short way round, and the sideways push keeps its sign."""
    family, rng = FAMILIES["ring-nav"], np.random.default_rng(0)
    for _ in range(20):
        first, second = family.draw_task(rng), family.draw_task(rng)
        half, end = between(first, second, 0.5), between(first, second, 1.0)
        assert abs(end.mount - first.mount) <= np.pi
        assert np.cos(end.mount - second.mount) == pytest.approx(1)
        assert 0.25 <= abs(half.tangential) <= 1.2


def test_the_task_of_a_tick_labels_its_sample_and_its_queries() -> None:
    streams = simulated_streams("ring-nav", "jumps", "test", 2, ticks=JUMP + 2, queries=3)
    again = simulated_streams.__wrapped__("ring-nav", "jumps", "test", 2, ticks=JUMP + 2, queries=3)
    for one, other in zip(streams[:4], again[:4], strict=True):
        np.testing.assert_array_equal(one, other)
    assert streams.query_x.shape == (2, JUMP + 2, 3, 18)
    assert streams.size > 0


def test_a_kalman_filter_knows_a_linear_task_and_how_sure_it_is() -> None:
    streams = linear_streams(40, noise=0.3)
    features = Features(UNIT, products=False)
    followed = follow(Kalman(features, prior(0.3), noise=1, spread=1, ticks=1e9), streams)
    assert followed.orbit[:, 0].mean() > 0.8
    assert followed.orbit[:, 50:].mean() < 0.1
    for n in CERTAIN:
        figures = certainty(followed.residuals[n])
        assert figures["mean_square"] == pytest.approx(1, abs=0.35)
        assert figures["coverage"][4] == pytest.approx(0.9, abs=0.08)


def test_least_squares_finds_a_linear_task_and_does_not_wind_up() -> None:
    streams = linear_streams()
    method = LeastSquares(Features(UNIT, products=False), forgetting=0.9, spread=10.0)
    assert follow(method, streams).orbit[:, 20:].mean() < 1e-4
    for _ in range(2000):  # one x for ever: plain forgetting would divide by 0.9 as often
        method.update(streams.x[:, 0], streams.y[:, 0])
    assert np.isfinite(method.covariance).all()
    assert method.covariance.max() < 1e3


def test_a_prior_is_fitted_on_tasks() -> None:
    streams = linear_streams(400)
    features = Features(UNIT, products=False)
    fitted = Prior.fit(features, streams.x, streams.y)
    spread = np.einsum("kfj,kgj->fg", fitted.basis, fitted.basis)
    np.testing.assert_allclose(spread, np.diag([0, 1, 1]), atol=0.2)


def test_the_last_value_is_a_low_pass_of_one_tick() -> None:
    method = LowPass(1, np.zeros(1))
    method.start(1)
    method.update(np.zeros((1, 2)), np.array([[3.0]]))
    assert method.predict(np.zeros((1, 4, 2))).tolist() == [[[3.0]] * 4]


def test_a_peer_that_knows_the_mirror_learns_from_the_copy_too() -> None:
    features = Features(UNIT, products=False)
    method = Copying(LeastSquares(features, forgetting=1.0, spread=1e6), MIRROR)
    method.start(1)
    method.update(np.array([[1.0, 2.0]]), np.array([[4.0]]))
    assert method.predict(np.array([[[1.0, 2.0], [1.0, -2.0]]]))[0, :, 0] == pytest.approx([4, -4], abs=0.01)


def test_settings_are_chosen_by_the_error() -> None:
    chosen = choose(
        lambda **settings: Kalman(Features(UNIT, products=False), prior(0.0), spread=1, **settings),
        grid(noise=(1.0,), ticks=(1.0, 1e9)),
        linear_streams(),
    )
    assert chosen == {"noise": 1.0, "ticks": 1e9}


def test_figures_are_of_the_right_moments() -> None:
    world = Simulated("ring-nav", 1, 1)
    ticks = np.arange(200.0)[None]
    followed = Followed(next=ticks, orbit=ticks, residuals={})
    assert world.figures("stays", followed)["after"] == {str(n): n for n in SAMPLES}
    jumps = world.figures("jumps", followed)
    assert (jumps["at_jump"], jumps["soon_after"]) == (100, 110)


def test_the_filter_of_many_streams_is_the_rule_of_each() -> None:
    """Until its memory is full, and with rows replaced after that."""
    config = LearnerConfig(depth=1, width=8, filters=4, rule="recursive", memory=8, gate=None)
    torch.manual_seed(0)
    learner = learner_class("msr")(config, (2,), (1,), "mse").eval()
    unit = Normalization(input_center=(0, 0), input_scale=(1, 1), output_center=(0,), output_scale=(1,))
    streams = linear_streams(3, 12)
    checkpoint: Any = SimpleNamespace(learner=learner, normalization=unit)
    method = Filtered(checkpoint, noise=1, ticks=1e9)
    method.start(3)
    for tick in range(12):
        method.update(streams.x[:, tick], streams.y[:, tick])
    for stream in range(3):
        x, y = (torch.from_numpy(part[stream]) for part in (streams.x, streams.y))
        with torch.no_grad():
            adapted = learner.adapt(x, y)
            wanted = learner(adapted, torch.from_numpy(streams.query_x[stream, 0]))
        np.testing.assert_allclose(method.predict(streams.query_x[:, 0])[stream], wanted, atol=1e-4)
    assert method.variance(streams.query_x[:, 0]).min() > 0
    fresh = Filtered(checkpoint, noise=1, ticks=1e9)
    fresh.start(1)
    fresh.update(streams.x[:1, 0], streams.y[:1, 0])
    method.replace(np.array([2]), fresh)
    for answer in (Filtered.predict, Filtered.variance):
        found = answer(method, streams.query_x[[0, 1, 0], 0])[2]
        np.testing.assert_allclose(found, answer(fresh, streams.query_x[:1, 0])[0], rtol=1e-4)


def test_every_method_takes_as_many_outer_steps(tmp_path) -> None:
    first, second = trainings(Simulated("ring-nav", 1, 1), tmp_path, 40, 64, 0)
    steps = {job.run.name: job.settings.steps for job in (*first, *second)}
    assert steps["ring-nav msr batch 0"] == 40
    for job in second:
        assert job.settings.start is not None
        assert steps[Path(job.settings.start).name] + job.settings.steps == 40


def test_logs_are_cut_where_the_robot_turns_the_other_way(tmp_path) -> None:
    """With and without the mirror; every method that no outer loop trains follows the streams."""
    rng = np.random.default_rng(0)
    for terrain in ("asphalt", "flooring", "snow"):
        for drive in range(5):
            ways = np.sign(np.sin(np.arange(420) / 30))
            speed = 0.5 + 0.2 * np.stack([-ways, ways], 1) + 0.02 * rng.normal(size=(420, 2))
            yaw_rate = (1 + 0.1 * drive) * (speed[:, 1] - speed[:, 0])
            table = np.column_stack([np.arange(420) / 6.5, rng.normal(size=(420, 2)), speed, yaw_rate])
            header = "time,current_left,current_right,speed_left,speed_right,yaw_rate"
            np.savetxt(tmp_path / f"{terrain}_{drive:02}.csv", table, "%.4f", ",", header=header, comments="")
    for mirror in (True, False):
        world = Logs(tmp_path, tmp_path / "out", "snow", mirror)
        assert (load_family(world.family()).name == "husky-snow") == mirror
        switches = world.streams("switches", "test")
        assert (switches.y[:, :64] * switches.y[:, 64:] < 0).all()
        peer = candidate("Kalman, linear", world, tmp_path, 0)
        figures = world.figures("switches", follow(peer.make(noise=1, spread=1, ticks=50), switches))
        assert figures["late"] < 0.05
        assert world.learners["msr"].form == ("equivariant" if mirror else "full")


def test_a_broken_robot_surprises_more_than_a_fresh_one() -> None:
    """The threshold comes from other fresh robots, and the measure is the one of `OnlineAdapter`."""
    features = Features(UNIT, products=False)
    method = Kalman(features, prior(0.3), noise=1, spread=1, ticks=1e9)
    robots = [
        (streams.x, streams.y)
        for streams in (linear_streams(200, 50, 0.3, seed=1), linear_streams(200, 50, 0.3), linear_streams(50, 50, 2.0))
    ]
    learned = [learn(method, samples, np.ones(2)) for samples in robots]
    fields = (Field(name="x", shape=(2,), unit="1", low=-1.0, high=1.0),)
    usual = Usual.of(robots[0], learned[0])
    known, inside, outside = (
        surprise(usual, samples, each, fields) for samples, each in zip(robots, learned, strict=True)
    )
    assert 0.1 < np.median(inside) < 1
    alarms, share = found(known, inside, outside)
    assert alarms <= 0.05
    assert share > 0.95
    alarms, finds = curve(inside, outside)
    assert (alarms[-1], finds[-1]) == (1, 1)
    assert all(np.diff(alarms) >= 0)


@pytest.mark.parametrize("family", ["ring-nav", "hex-drive"])
def test_broken_robots_are_streams_like_fresh_ones(family: str) -> None:
    fresh_x, fresh_y = samples_of(FAMILIES[family], "test", 2)
    for _, (x, y) in broken_robots(family, 2):
        assert (x.shape, y.shape, x.dtype) == (fresh_x.shape, fresh_y.shape, np.float32)


def test_tables_put_seeds_together() -> None:
    """Means over seeds; only what says how sure it is stands among those that say it."""
    rows = [row("recursive MSR", seed, 0.1 + 0.1 * seed, sure=True) for seed in range(2)] + [row("last value", 0, 0.9)]
    assert [line["after 10"] for line in online_stays(rows)] == ["**0.1500**", "0.9000"]
    assert [line["jumps: orbit"] for line in online_streams(rows)] == ["**0.1500**", "0.9000"]
    (line,) = online_certainty(rows)
    assert line["hold after 3"] == "91% (90% to 92%)"
    assert online_outside(rows) == [
        {"method: robot": "recursive MSR: weak", "false alarms": "1.0%", "found": "80% (75% to 85%)"}
    ]
    assert len(online(rows)) == 2


def row(method: str, seed: int, error: float, *, sure: bool = False) -> dict[str, Any]:
    """What `online.score` gives, with one error everywhere."""
    jumps = dict.fromkeys(("next", "orbit", "at_jump", "soon_after"), error)
    streams = {"stays": {"after": {str(n): error for n in SAMPLES}}, "jumps": jumps, "drifts": jumps}
    more: dict[str, Any] = {}
    if sure:
        certain = {"coverage": [0.0] * 4 + [0.9 + 0.02 * seed], "mean_square": 1.0}
        more["certainty"] = {str(n): certain for n in CERTAIN}
        more["outside"] = {"weak": {"alarms": 0.01, "found": 0.75 + 0.1 * seed}}
    return {"world": "ring-nav", "mirror": None, "method": method, "seed": seed, "streams": streams, **more}


def test_a_filter_begins_again_where_its_task_jumps() -> None:
    """Three of six streams jump: their filters then know the two samples after the jump, and nothing else."""
    streams = linear_streams(noise=0.1)
    x, y = streams.x.copy(), streams.y.copy()
    x[:3, 30:], y[:3, 30:] = streams.x[3:, :30], 50 * streams.y[3:, :30]
    filters = [Kalman(Features(UNIT, products=False), prior(0.1), noise=1, spread=1, ticks=1e9) for _ in range(2)]
    restarting, plain = Restarting(filters[0]), filters[1]
    for each in (restarting, plain):
        each.start(6)
    for tick in range(32):
        for each in (restarting, plain):
            each.update(x[:, tick], y[:, tick])
    again = Kalman(Features(UNIT, products=False), prior(0.1), noise=1, spread=1, ticks=1e9)
    again.start(3)
    for tick in (30, 31):
        again.update(x[:3, tick], y[:3, tick])
    query = streams.query_x[:, 0]
    np.testing.assert_allclose(restarting.predict(query)[:3], again.predict(query[:3]))
    np.testing.assert_allclose(restarting.predict(query)[3:], plain.predict(query)[3:])
