"""OnlineAdapter: what it learns from and leaves out, that it counts everything, and that no error stops `predict`."""

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, InputError, OnlineAdapter, UpdateGuard
from msr_runtime.adaptation.report import OnlineReport
from msr_runtime.adaptation.sample_window import LeftOut
from msr_runtime.adaptation.update_guard import Refusal
from msr_runtime.adaptation.window_learning import WindowLearning

FAST = 200.0  # Hz


def draw(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = draw(0, 4, 3)
BOTH = pytest.mark.parametrize("model", ["onnx", "native"], indirect=True)
"""Runs a test in ONNX Runtime and in native code."""


def task(linear: Any, seed: int, samples: int, shift: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a robot whose v is v0 plus `shift` in every component. Their y is inside its bounds, 10 N."""
    x = draw(seed, 10 * samples, 3)
    y = linear.predict(linear.v0 + np.float32(shift), x)
    inside = np.flatnonzero((np.abs(np.stack([y, linear.predict(linear.v0, x)])) < 10).all((0, 2)))[:samples]
    assert len(inside) == samples
    return x[inside], y[inside]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for another thread, for a minute at most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "a minute has passed"
        time.sleep(0.001)


def settle(online: OnlineAdapter, observed: int) -> None:
    """Wait until `observed` samples were collected and the model has adapted to all that entered."""
    learning = online._learning
    assert isinstance(learning, WindowLearning)
    wait_for(lambda: online.report().observed == observed and learning._learned_from == online._samples.entered)


def accounted(report: OnlineReport) -> bool:
    """Whether the counts of adaptations and of samples add up."""
    updates = report.tried == report.accepted + sum(report.refused.values())
    return updates and report.observed == report.entered + sum(report.left_out.values()) + report.dropped


def feed(online: OnlineAdapter, x: np.ndarray, y: np.ndarray) -> None:
    """Observe samples one by one."""
    for one_x, one_y in zip(x, y, strict=True):
        online.observe(one_x, one_y)


def test_it_adapts_to_what_was_observed(model: AdaptiveModel, linear: Any) -> None:
    """With as many samples as in meta-training it adapts once, to the result of numpy, and the model acts with it."""
    x, y = task(linear, 1, 5)
    with OnlineAdapter(model, window=5, hz=FAST, held_out=0) as online:
        feed(online, x[:4], y[:4])
        time.sleep(0.05)
        assert online.report().tried == 0  # four samples are fewer than in meta-training
        online.observe(x[4], y[4])
        settle(online, 5)
        np.testing.assert_allclose(online.predict(X), linear.predict(linear.adapt(x, y, 3), X), rtol=1e-4, atol=1e-5)
        time.sleep(0.05)
        assert online.report().tried == 1  # nothing new was observed
    report = online.report()
    assert accounted(report)
    assert report.accepted == 1
    assert report.entered == 5
    assert report.weights_age >= 0
    assert report.seconds_p95 >= report.seconds_p50 > 0
    assert online.latest
    assert online.latest.held_out is None


def test_the_oldest_sample_gives_way(model: AdaptiveModel, linear: Any) -> None:
    """Of 6 samples a window of 5 keeps the last 5, and each adaptation begins at v0."""
    x, y = task(linear, 1, 6)
    with OnlineAdapter(model, window=5, hz=FAST, held_out=0) as online:
        feed(online, x[:5], y[:5])
        settle(online, 5)
        online.observe(x[5], y[5])
        settle(online, 6)
    np.testing.assert_allclose(model.v, linear.adapt(x[1:], y[1:], 3), rtol=1e-4)


def test_it_may_start_from_the_accepted_weights(model: AdaptiveModel, linear: Any) -> None:
    """Three steps, a new sample, three more steps from there: the same as in numpy."""
    x, y = task(linear, 1, 6)
    with OnlineAdapter(model, window=5, hz=FAST, held_out=0, start="accepted") as online:
        feed(online, x[:5], y[:5])
        settle(online, 5)
        online.observe(x[5], y[5])
        settle(online, 6)
    v = linear.adapt(x[:5], y[:5], 3)
    ring = [5, 1, 2, 3, 4]
    for _ in range(3):
        v, _ = linear.step(v, x[ring], y[ring])
    np.testing.assert_allclose(model.v, v, rtol=1e-4)
    assert online.latest
    assert online.latest.loss_before < linear.step(linear.v0, x[ring], y[ring])[1]


def test_held_out_samples_judge_the_update(model: AdaptiveModel, linear: Any) -> None:
    """Every other sample is held out. An update with a higher loss on these is not needed, and v0 still acts."""
    x, y = task(linear, 1, 24)
    y[1::2] = linear.predict(linear.v0, x[1::2])
    online = OnlineAdapter(model, window=12, hz=FAST, held_out=2)
    feed(online, x, y)  # before the thread starts, so that there are enough judges at the first update
    with online:
        settle(online, 24)
    report = online.report()
    assert accounted(report)
    assert report.accepted == 0
    assert set(report.refused) == {str(Refusal.HELD_OUT)}
    assert "0 accepted, 1 not needed (the acting weights fit as well or better), refused: none" in str(report)
    assert math.isnan(report.weights_age)
    assert online.latest
    assert online.latest.held_out
    assert online.latest.held_out.after > online.latest.held_out.before
    np.testing.assert_allclose(model.v, linear.v0, rtol=1e-6)


def test_an_outlier_is_left_out_of_the_update_and_counted(
    limited: AdaptiveModel, linear: Any, clean: tuple[np.ndarray, np.ndarray]
) -> None:
    """By the limits that were measured at the export, without any argument. The model adapts to the other samples."""
    x, y = (part[:10] for part in clean)
    spoiled = y.copy()
    spoiled[7, 1] += 5.0  # fifty scales, inside the bounds
    online = OnlineAdapter(limited, window=10, hz=FAST, held_out=0)
    feed(online, x, spoiled)
    with online:
        settle(online, 10)
    others = np.arange(10) != 7
    np.testing.assert_allclose(limited.v, linear.adapt(x[others], y[others], 3), rtol=1e-4)
    assert online.report().cleaned == 1
    assert "1 accepted (1 without samples that spoil them), refused: none" in str(online.report())


def test_the_guard_it_is_given_judges(model: AdaptiveModel, linear: Any) -> None:
    """A tiny trust region refuses every update, and the report names the reason."""
    with OnlineAdapter(model, window=5, hz=FAST, guard=UpdateGuard(trust=1e-6)) as online:
        feed(online, *task(linear, 1, 20))
        settle(online, 20)
    assert set(online.report().refused) == {"trust region"}
    assert "trust region" in str(online.report())


BAD = {
    "NaN in x": (np.full(3, np.nan), np.zeros(2), LeftOut.NOT_FINITE),
    "infinite y": (np.zeros(3), np.array([0, -np.inf]), LeftOut.NOT_FINITE),
    "too large for float32": (np.full(3, 1e300), np.zeros(2), LeftOut.NOT_FINITE),
    "1e30 in x": (np.array([1e30, 0, 0]), np.zeros(2), LeftOut.OUTLIER),
    "1e30 in y": (np.zeros(3), np.array([0, 1e30]), LeftOut.OUTLIER),
    "largest float32": (np.full(3, np.finfo(np.float32).max), np.zeros(2), LeftOut.OUTLIER),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_sensor_is_left_out_and_counted(model: AdaptiveModel, linear: Any, name: str) -> None:
    """A bad sample among good ones changes nothing: the model adapts to the good ones."""
    bad_x, bad_y, reason = BAD[name]
    x, y = task(linear, 1, 5)
    with OnlineAdapter(model, window=5, hz=FAST, held_out=0) as online:
        feed(online, x[:4], y[:4])
        online.observe(bad_x, bad_y)
        online.observe(x[4], y[4])
        settle(online, 6)
    assert online.report().left_out == {str(reason): 1}
    assert accounted(online.report())
    np.testing.assert_allclose(model.v, linear.adapt(x, y, 3), rtol=1e-4)


def test_samples_outside_their_bounds_are_counted_and_absurd_ones_left_out(write: Callable[..., Path]) -> None:
    """A sensor in another unit is named in the report; `predict` counts only if the model was loaded to do so."""
    model = AdaptiveModel.load(write(input_limit=10.0), check_inputs=True)
    with OnlineAdapter(model, window=5, hz=FAST, held_out=0) as online:
        online.observe([0, 0, 4], [0, 10.5])
        online.observe([0, 0, 4], [0, 11.5])
        online.observe([0, 0, 180], [0, 0])
        online.observe([0, 0, 0], [-999, 0])
        online.observe([0, 0, math.inf], [0, math.inf])
        online.predict([0, 0, 4])
        wait_for(lambda: online.report().observed == 5)
    report = online.report()
    wanted = {str(LeftOut.ABSURD): 2, str(LeftOut.OUTSIDE): 1, str(LeftOut.NOT_FINITE): 1}
    assert (report.entered, report.left_out) == (1, wanted)
    assert report.outside == {"x.angle": 3, "y.force": 2}
    assert report.predicted_outside == {"x.angle": 1}
    assert accounted(report)
    assert "outside   3 x.angle, 2 y.force\npredicted outside 1 x.angle" in str(report)


@BOTH
def test_an_update_that_overflows_is_refused(model: AdaptiveModel, linear: Any) -> None:
    """Samples that pass every check but make the inner loop diverge: the weights accepted before still act."""
    x, y = task(linear, 1, 5)
    with OnlineAdapter(model, window=5, hz=FAST, held_out=0) as online:
        feed(online, x, y)
        settle(online, 5)
        accepted = model.v
        feed(online, 400 * x, y)
        settle(online, 10)
        np.testing.assert_array_equal(model.v, accepted)
        feed(online, x[::-1], y[::-1])
        wait_for(lambda: online.report().accepted >= 2)
    assert set(online.report().refused) <= {"trust region", "not finite", "worse on its own samples"}
    assert sum(online.report().refused.values()) > 0
    assert accounted(online.report())


def test_constant_samples_do_no_harm(model: AdaptiveModel, linear: Any) -> None:
    """A robot that stands still observes one point again and again; its weights stay finite and near v0."""
    x, y = task(linear, 1, 1)
    with OnlineAdapter(model, window=8, hz=FAST) as online:
        for _ in range(30):
            online.observe(x[0], y[0])
        settle(online, 30)
    assert accounted(online.report())
    assert np.isfinite(model.predict(X)).all()
    assert np.linalg.norm(model.v - linear.v0) <= 2 * np.linalg.norm(linear.v0)


def test_a_robot_at_rest_keeps_what_it_has_learned(model: AdaptiveModel, linear: Any) -> None:
    """Rest is no fault: nothing is refused and nothing is learned, until it moves again."""
    x, y = task(linear, 1, 20)
    still, same = x[:1] + 1e-3 * draw(5, 20, 3), np.repeat(y[:1], 20, 0)
    with OnlineAdapter(model, window=5, hz=FAST, held_out=0) as online:
        feed(online, x[:5], y[:5])
        settle(online, 5)
        feed(online, still[:10], same[:10])
        settle(online, 15)
        learned, tried, rested = model.v, online.report().tried, online.report().rested
        assert rested >= 1
        feed(online, still[10:], same[10:])
        settle(online, 25)
        assert (online.report().tried, online.report().refused) == (tried, {})
        assert online.report().rested > rested
        assert "left out at rest" in str(online.report())
        np.testing.assert_array_equal(model.v, learned)
        feed(online, x[10:15], y[10:15])
        settle(online, 30)
    assert accounted(online.report())
    np.testing.assert_allclose(model.v, linear.adapt(x[10:15], y[10:15], 3), rtol=1e-4)


def test_a_sensor_that_sticks_while_the_robot_moves_latches_nothing(model: AdaptiveModel, linear: Any) -> None:
    """Its updates are refused and counted, and the adapter learns again afterwards."""
    x, y = task(linear, 1, 15)
    seen = np.concatenate((y[:5], np.repeat(y[:1], 5, 0), y[10:]))
    with OnlineAdapter(model, window=5, hz=FAST, held_out=0) as online:
        for last in (5, 10, 15):
            feed(online, x[last - 5 : last], seen[last - 5 : last])
            settle(online, last)
            refused = online.report().refused
            assert (str(Refusal.STUCK) in refused) == (last > 5)
    assert accounted(online.report())
    np.testing.assert_allclose(model.v, linear.adapt(x[10:], y[10:], 3), rtol=1e-4)


def test_a_support_set_of_one_is_enough_where_it_is_asked_for(model: AdaptiveModel, linear: Any) -> None:
    """With a window of one it adapts to the latest sample."""
    x, y = task(linear, 1, 3)
    with OnlineAdapter(model, window=1, hz=FAST, held_out=0) as online:
        for seen in (1, 2, 3):
            online.observe(x[seen - 1], y[seen - 1])
            settle(online, seen)
    assert online.report().accepted == 3
    np.testing.assert_allclose(model.v, linear.adapt(x[2:], y[2:], 3), rtol=1e-4)


@BOTH
def test_two_threads_observe_and_predict_at_once(model: AdaptiveModel, linear: Any) -> None:
    """With three threads, every sample is counted and every prediction is finite."""
    x, y = task(linear, 1, 500)

    def drive() -> None:
        feed(online, x, y)
        assert np.isfinite(online.predict(X)).all()

    with OnlineAdapter(model, window=200, hz=FAST) as online:
        threads = [threading.Thread(target=drive) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        settle(online, 1500)
    report = online.report()
    assert accounted(report)
    assert report.observed == 1500
    assert report.waiting == 0


def test_samples_that_nobody_collects_are_dropped_and_counted(model: AdaptiveModel, linear: Any) -> None:
    """Before the `with`, the queue drops its oldest samples; afterwards the report counts all of them."""
    online = OnlineAdapter(model, window=5, hz=FAST)
    feed(online, *task(linear, 1, 100))
    assert online.report().waiting == 20
    with online:
        settle(online, 100)
    assert accounted(online.report())
    assert online.report().dropped == 80
    assert online.report().observed == 100


class BrokenGuard(UpdateGuard):
    """A guard with a programming mistake."""

    def judge(self, *_: Any) -> None:
        """Raise at the first update."""
        raise ZeroDivisionError("a mistake")


def test_an_error_in_the_thread_is_kept_and_the_robot_acts_on(model: AdaptiveModel, linear: Any) -> None:
    """The report shows it, `check` and the end of the `with` raise it, and predict goes on with the old weights."""
    x, y = task(linear, 1, 20)
    online = OnlineAdapter(model, window=5, hz=FAST, guard=BrokenGuard())

    def drive() -> None:
        with online:
            feed(online, x, y)
            wait_for(lambda: online.report().error is not None)
            feed(online, x, y)
            np.testing.assert_allclose(online.predict(X), linear.predict(linear.v0, X), rtol=1e-4, atol=1e-5)

    with pytest.raises(ZeroDivisionError, match="a mistake"):
        drive()
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        online.check()
    assert online.report().error == "ZeroDivisionError: a mistake"
    assert "adapting ended" in str(online.report())


def test_an_error_of_the_caller_is_not_hidden(model: AdaptiveModel, linear: Any) -> None:
    """An error inside the `with` reaches the caller even if the thread had one too, and the thread ends."""
    online = OnlineAdapter(model, window=5, hz=FAST, guard=BrokenGuard())

    def drive() -> None:
        with online:
            feed(online, *task(linear, 1, 20))
            wait_for(lambda: online.report().error is not None)
            raise KeyError

    with pytest.raises(KeyError):
        drive()
    assert not any(thread.name == "msr-online" for thread in threading.enumerate())


def test_the_end_comes_at_once_and_collects_the_rest(model: AdaptiveModel, linear: Any) -> None:
    """With one adaptation per hour, leaving does not wait for the next one, and every sample is counted."""
    with OnlineAdapter(model, window=5, hz=1 / 3600) as online:
        time.sleep(0.01)
        feed(online, *task(linear, 1, 7))
    assert online.report().observed == 7
    assert online.report().waiting == 0
    assert accounted(online.report())


def test_one_adapter_is_entered_once(model: AdaptiveModel, linear: Any) -> None:
    """Entering it again inside its own `with` is refused, and the outer one adapts on; after its end it may be."""
    online = OnlineAdapter(model, window=5, hz=FAST, held_out=0)
    for turn in (1, 2):
        with online:
            with pytest.raises(InputError, match="entered already"):
                online.__enter__()
            feed(online, *task(linear, turn, 5))
            settle(online, 5 * turn)
    assert online.report().tried >= 2
