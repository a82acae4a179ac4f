"""A change of the task shows in a window of samples; outliers, a stuck sensor and a robot at rest are none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, OnlineAdapter, UpdateGuard
from msr_runtime.adaptation.sessions import Sessions
from msr_runtime.recording.reader import Recording
from msr_runtime.recording.recorder import Recorder
from msr_runtime.recording.replay import replay

Samples = tuple[np.ndarray, np.ndarray]
BEFORE = 30
"""Samples of the first task."""


@pytest.fixture
def tasks(linear: Any) -> Samples:
    """Thirty samples of one task, then thirty of another."""
    x = np.random.default_rng(1).standard_normal((600, 3)).astype(np.float32)
    y = np.stack([linear.predict(linear.v0 + np.float32(shift), x) for shift in (0.3, -0.3)])
    inside = np.flatnonzero((np.abs(y) < 10).all((0, 2)))[: 2 * BEFORE]
    return x[inside], np.concatenate([y[0, inside[:BEFORE]], y[1, inside[BEFORE:]]])


@pytest.fixture
def model(write: Callable[..., Path], linear: Any, tasks: Samples) -> AdaptiveModel:
    """The reference, with limits that ten samples of one task keep, and ten of both tasks miss."""
    x, y = tasks
    losses, moves = [], []
    for first in (0, 10, 20, 30, 40, 50):
        v = linear.adapt(x[first : first + 10], y[first : first + 10], 3)
        losses.append(linear.step(v, x[first : first + 10], y[first : first + 10])[1])
        moves.append(float(np.linalg.norm(v - linear.v0) / np.linalg.norm(linear.v0)))
    figures = {"usual_spread": 100.0, "usual_loss": 1.5 * max(losses), "usual_move": 1.5 * max(moves), "worse": 0.0}
    figures |= {"largest_loss": figures["usual_loss"], "largest_move": figures["usual_move"]}
    by_shots = [figures | {"shots": shots, "median_error": 0.1, "high_error": 0.2} for shots in (5, 10)]
    return AdaptiveModel.load(write(validation={"tasks": 4, "error_at_v0": 1.0, "by_shots": by_shots}))


def run(online: OnlineAdapter, x: np.ndarray, y: np.ndarray) -> list[int]:
    """Observe and learn, sample by sample. Return at which of them a change was noticed."""
    noticed: list[int] = []
    for index, (one_x, one_y) in enumerate(zip(x, y, strict=True)):
        online.observe(one_x, one_y, at=float(index))
        online.step()
        noticed += [index] * (online.report().restarts - len(noticed))
    return noticed


@pytest.mark.parametrize("start", ["v0", "accepted"])
def test_a_change_is_noticed(model: AdaptiveModel, linear: Any, tasks: Samples, start: Any) -> None:
    """Some samples show it. The newest eight are learned from, from v0, but for an outlier; later ones join them."""
    x, y = tasks
    online, count = OnlineAdapter(model, held_out=0, start=start), BEFORE
    while not online.report().restarts and count < BEFORE + 10:
        count += 1
        run(online, x[online.report().observed : count], y[online.report().observed : count])
    assert online.report().restarts
    assert online.latest
    assert online.latest.begins == count - 8
    kept = np.setdiff1d(np.arange(count), online.latest.left_out)
    assert len(kept) >= 7
    np.testing.assert_allclose(model.v, linear.adapt(x[kept], y[kept], 3), rtol=1e-3)
    assert "changes of the task noticed: 1" in str(online.report())
    run(online, x[count:], y[count:])
    assert online.report().restarts == 1
    assert online.report().tasks == 1


def test_held_out_samples_of_the_task_before_do_not_judge(model: AdaptiveModel, tasks: Samples) -> None:
    """They would refuse every network of the new task. Those that come after the change judge again."""
    (x, y), online = tasks, OnlineAdapter(model)
    assert len(run(online, x, y)) == 1
    adapted, at_v0 = (np.mean((each.predict(x[BEFORE:]) - y[BEFORE:]) ** 2) for each in (model, model.fork()))
    assert adapted < at_v0
    assert online.latest
    assert online.latest.held_out


def test_a_change_may_stay_unnoticed(model: AdaptiveModel, tasks: Samples) -> None:
    """As where changes last for some samples only."""
    online = OnlineAdapter(model, held_out=0, detect_changes=False)
    assert run(online, *tasks) == []
    assert online.report().refused


def test_a_noticed_change_replays_exactly(model: AdaptiveModel, tasks: Samples, tmp_path: Path) -> None:
    """The recording holds the samples of the new task alone, and that the inner loop began at v0."""
    with Recorder(tmp_path / "a.mcap", model) as recorder:
        online = OnlineAdapter(model, held_out=0, start="accepted", recorder=recorder)
        assert len(run(online, *tasks)) == 1
        recorder.observation(tasks[0][0])
        recorder.action(online.predict(tasks[0][0]))
    found = replay(Recording.open(tmp_path / "a.mcap"), model.fork(), tolerance=0.0)
    assert (found.same, found.actions) == (True, 1)


@pytest.mark.parametrize("last", [1, 4, 7, 12])
def test_wrong_samples_are_no_change(model: AdaptiveModel, tasks: Samples, last: int) -> None:
    """However many come one after another: they do not agree. The weights are those of the good ones."""
    x, y = tasks
    y = y.copy()
    y[BEFORE:] = np.random.default_rng(2).uniform(-9, 9, (BEFORE, 2))
    online = OnlineAdapter(model, held_out=0)
    assert run(online, x[: BEFORE + last], y[: BEFORE + last]) == []
    error = model.predict(x[:BEFORE]) - y[:BEFORE]
    assert np.mean(error**2) < np.mean((model.fork().predict(x[:BEFORE]) - y[:BEFORE]) ** 2)


def test_a_sensor_that_gets_stuck_is_no_change(model: AdaptiveModel, linear: Any, tasks: Samples) -> None:
    """Its samples agree, where x differs by little, but y never changes. That is said, and the weights stay."""
    x, y = (part.copy() for part in tasks)
    here = np.array([4.5, 0.0, -1.0], np.float32)
    x[BEFORE:] = here + 0.15 * linear.x_scale * np.random.default_rng(6).standard_normal((BEFORE, 3))
    y[BEFORE:] = [9.0, -1.1]
    online = OnlineAdapter(model, held_out=0, guard=UpdateGuard(trust=2.0, loss=0.4))
    assert run(online, x[: BEFORE + 14], y[: BEFORE + 14]) == []
    assert online.report().refused["y stuck"] > 0
    adapted, at_v0 = (np.mean((each.predict(x[:BEFORE]) - y[:BEFORE]) ** 2) for each in (model, model.fork()))
    assert adapted < at_v0


def test_a_robot_at_rest_shows_no_change(model: AdaptiveModel, tasks: Samples) -> None:
    """Any network explains one state."""
    x, y = tasks[0].copy(), tasks[1].copy()
    x[BEFORE:], y[BEFORE:] = x[BEFORE], y[BEFORE]
    noise = np.random.default_rng(3).standard_normal(x[BEFORE:].shape).astype(np.float32)
    x[BEFORE:] += 0.01 * noise
    y[BEFORE:] += 0.001 * noise[:, :2]
    online = OnlineAdapter(model, held_out=0)
    assert run(online, x[: BEFORE + 15], y[: BEFORE + 15]) == []
    assert online.report().refused


def test_no_step_takes_more_than_some_adaptations(
    model: AdaptiveModel, tasks: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the window holds: two tasks, wrong samples, or both. From 15 samples on, it takes fewer."""
    counts, adapt = [0], Sessions.adapt

    def counted(*arguments: Any) -> Any:
        counts[-1] += 1
        return adapt(*arguments)

    monkeypatch.setattr(Sessions, "adapt", counted)
    x, y = tasks
    y = y.copy()
    bad = np.random.default_rng(4).random(len(y)) < 0.2
    y[bad] = np.random.default_rng(5).uniform(-9, 9, (int(bad.sum()), 2))
    online = OnlineAdapter(model, held_out=0)
    for one_x, one_y in zip(x, y, strict=True):
        counts.append(0)
        run(online, one_x[None], one_y[None])
    assert max(counts) == 21
    assert 1 < max(counts[16:]) <= 12
