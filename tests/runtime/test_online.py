"""OnlineAdapter: what it learns, what it leaves out, and that nothing it meets stops the robot or goes uncounted."""

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, InputError, OnlineAdapter, UpdateGuard
from msr_runtime.bundle import START, encode_start
from msr_runtime.errors import RealTimeError
from msr_runtime.manifest import Normalisation
from msr_runtime.online import OnlineReport
from msr_runtime.samples import Left, SampleWindow
from msr_runtime.session import Side

FAST = 200.0  # Hz


def draw(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = draw(0, 4, 3)


@pytest.fixture
def model(bundle_path: Path) -> AdaptiveModel:
    """The reference's bundle, loaded."""
    return AdaptiveModel.load(bundle_path)


def task(linear: Any, seed: int, samples: int, shift: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a robot whose v is `shift` away from v0 everywhere."""
    x = draw(seed, samples, 3)
    return x, linear.predict(linear.v0 + np.float32(shift), x)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for another thread's doing; a minute is the end."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.001)


def settle(online: OnlineAdapter, observed: int) -> None:
    """Wait until so many samples were taken up, and all that entered were learned from."""
    wait_for(lambda: online.report().observed == observed and online._learned_from == online._samples.entered)


def accounted(report: OnlineReport) -> bool:
    """Whether every adaptation and every sample has its place."""
    updates = report.tried == report.accepted + sum(report.refused.values())
    return updates and report.observed == report.entered + sum(report.left_out.values()) + report.dropped


def feed(online: OnlineAdapter, x: np.ndarray, y: np.ndarray) -> None:
    """Observe samples one by one."""
    for one_x, one_y in zip(x, y, strict=True):
        online.observe(one_x, one_y)


def test_it_adapts_to_what_was_observed(model: AdaptiveModel, linear: Any) -> None:
    """With as many samples as in meta-training it ends where numpy does, and the model acts on it."""
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
    """A window of 5 has forgotten the first of 6 samples, and from v0 nothing is left of the first adaptation."""
    x, y = task(linear, 1, 6)
    with OnlineAdapter(model, window=5, hz=FAST, held_out=0) as online:
        feed(online, x[:5], y[:5])
        settle(online, 5)
        online.observe(x[5], y[5])
        settle(online, 6)
    np.testing.assert_allclose(model.v, linear.adapt(x[1:], y[1:], 3), rtol=1e-4)


def test_it_may_start_from_the_accepted_weights(model: AdaptiveModel, linear: Any) -> None:
    """Three steps, a new sample, three steps more."""
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


def test_held_out_samples_judge(model: AdaptiveModel, linear: Any) -> None:
    """Every fourth sample is not learned from; an update that is worse on those is refused and v0 acts on."""
    x, y = task(linear, 1, 8)
    y[3::4] = linear.predict(linear.v0, x[3::4])
    with OnlineAdapter(model, window=6, hz=FAST, held_out=4) as online:
        feed(online, x, y)
        settle(online, 8)
    report = online.report()
    assert accounted(report)
    assert report.accepted == 0
    assert set(report.refused) == {"held-out loss"}
    assert math.isnan(report.weights_age)
    assert online.latest
    assert online.latest.held_out
    assert online.latest.held_out.after > online.latest.held_out.before
    np.testing.assert_allclose(model.v, linear.v0, rtol=1e-6)


def test_the_guard_it_is_given_judges(model: AdaptiveModel, linear: Any) -> None:
    """A tiny trust region refuses everything, by name."""
    with OnlineAdapter(model, window=5, hz=FAST, guard=UpdateGuard(trust=1e-6)) as online:
        feed(online, *task(linear, 1, 20))
        settle(online, 20)
    assert set(online.report().refused) == {"trust region"}
    assert "trust region" in str(online.report())


BAD = {
    "NaN in x": (np.full(3, np.nan), np.zeros(2), Left.NOT_FINITE),
    "infinite y": (np.zeros(3), np.array([0, -np.inf]), Left.NOT_FINITE),
    "too large for float32": (np.full(3, 1e300), np.zeros(2), Left.NOT_FINITE),
    "1e30 in x": (np.array([1e30, 0, 0]), np.zeros(2), Left.OUTLIER),
    "1e30 in y": (np.zeros(3), np.array([0, 1e30]), Left.OUTLIER),
    "largest float32": (np.full(3, np.finfo(np.float32).max), np.zeros(2), Left.OUTLIER),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_sensor_is_left_out_and_counted(model: AdaptiveModel, linear: Any, name: str) -> None:
    """Between good samples it changes nothing: the robot adapts to the good ones."""
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


def test_an_update_that_overflows_is_refused(model: AdaptiveModel, linear: Any) -> None:
    """Samples that no rule leaves out, but that make the inner loop run away: the weights accepted before act on."""
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
    assert set(online.report().refused) <= {"trust region", "not finite"}
    assert sum(online.report().refused.values()) > 0
    assert accounted(online.report())


def test_constant_samples_do_no_harm(model: AdaptiveModel, linear: Any) -> None:
    """A robot that stands still adapts to one point; its weights stay finite and near v0."""
    x, y = task(linear, 1, 1)
    with OnlineAdapter(model, window=8, hz=FAST) as online:
        for _ in range(30):
            online.observe(x[0], y[0])
        settle(online, 30)
    assert accounted(online.report())
    assert np.isfinite(model.predict(X)).all()
    assert np.linalg.norm(model.v - linear.v0) <= 2 * np.linalg.norm(linear.v0)


def test_a_support_set_of_one_is_enough_where_it_is_asked_for(model: AdaptiveModel, linear: Any) -> None:
    """A window of one adapts to the latest sample."""
    x, y = task(linear, 1, 3)
    with OnlineAdapter(model, window=1, hz=FAST, held_out=0) as online:
        for seen in (1, 2, 3):
            online.observe(x[seen - 1], y[seen - 1])
            settle(online, seen)
    assert online.report().accepted == 3
    np.testing.assert_allclose(model.v, linear.adapt(x[2:], y[2:], 3), rtol=1e-4)


def test_two_threads_observe_and_predict_at_once(model: AdaptiveModel, linear: Any) -> None:
    """Every sample is accounted for, and every prediction is finite."""
    x, y = task(linear, 1, 500)

    def drive() -> None:
        feed(online, x, y)
        assert np.isfinite(online.predict(X)).all()

    with OnlineAdapter(model, window=400, hz=FAST) as online:
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


def test_samples_nobody_takes_up_do_not_pile_up(model: AdaptiveModel, linear: Any) -> None:
    """Beyond what the windows could hold, the oldest is dropped; on entering, all are accounted for."""
    online = OnlineAdapter(model, window=5, hz=FAST)
    feed(online, *task(linear, 1, 100))
    assert online.report().waiting == 20
    with online:
        settle(online, 100)
    assert accounted(online.report())
    assert online.report().dropped == 80
    assert online.report().observed == 100


class BrokenGuard(UpdateGuard):
    """A guard with a mistake in it."""

    def judge(self, v0: np.ndarray, v: np.ndarray, *_: Any) -> None:
        """Raise at the first update, as code with a mistake does."""
        if (v0 != v).any():
            raise ZeroDivisionError("a mistake")


def test_an_error_in_the_thread_is_kept_and_the_robot_acts_on(model: AdaptiveModel, linear: Any) -> None:
    """The report shows it, check and the end of the `with` raise it, and predict goes on with the old weights."""
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
    """Whatever the thread met, the error inside the `with` goes on to the caller, and the thread ends."""
    online = OnlineAdapter(model, window=5, hz=FAST, guard=BrokenGuard())

    def drive() -> None:
        with online:
            feed(online, *task(linear, 1, 20))
            wait_for(lambda: online.report().error is not None)
            raise KeyError

    with pytest.raises(KeyError):
        drive()
    assert not any(thread.name == "msr-online" for thread in threading.enumerate())


def test_the_end_comes_at_once_and_takes_up_the_rest(model: AdaptiveModel, linear: Any) -> None:
    """At one adaptation an hour, leaving does not wait for the next, and every sample is accounted for."""
    with OnlineAdapter(model, window=5, hz=1 / 3600) as online:
        time.sleep(0.01)
        feed(online, *task(linear, 1, 7))
    assert online.report().observed == 7
    assert online.report().waiting == 0
    assert accounted(online.report())


def test_real_time_is_one_below_the_loops_or_refused(model: AdaptiveModel) -> None:
    """Where the system refuses it, no thread is left behind."""
    try:
        with OnlineAdapter(model, realtime=True) as online:
            thread = online._thread.native_id
            assert thread
            assert os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
            assert os.sched_getparam(thread).sched_priority == 49
            assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER
    except RealTimeError as error:
        assert "limits.conf" in str(error)  # noqa: PT017 - a machine may grant it or refuse it
    assert not any(thread.name == "msr-online" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros(4), np.zeros(2), r"one sample's x has shape \(4,\), but \(3,\) is wanted"),
        (np.zeros((1, 3)), np.zeros(2), r"one sample's x has shape \(1, 3\)"),
        (np.zeros(3), np.zeros(3), "one sample's y has shape"),
        (["a", "b", "c"], np.zeros(2), "dtype"),
    ],
)
def test_a_wrong_shape_is_a_mistake_in_the_program(model: AdaptiveModel, x: Any, y: Any, message: str) -> None:
    """It is raised at the first sample, and nothing enters."""
    online = OnlineAdapter(model)
    with pytest.raises(InputError, match=message):
        online.observe(x, y)
    assert online.report().waiting == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"held_out": -1}, "held_out is -1"),
        ({"held_out": 1}, "none teach"),
        ({"hz": 0}, "hz is 0"),
        ({"hz": math.inf}, "hz is inf"),
        ({"novelty": -1.0}, "novelty is -1"),
        ({"novelty": math.nan}, "novelty is nan"),
        ({"start": "here"}, "start is 'here'"),
    ],
)
def test_settings_out_of_range_are_refused(model: AdaptiveModel, options: dict, message: str) -> None:
    """Before any thread starts."""
    with pytest.raises(InputError, match=message):
        OnlineAdapter(model, **options)


def window(
    model: AdaptiveModel, size: int = 6, stride: int = 1, novelty: float | None = None, held_out: int = 0
) -> Any:
    """The samples of an adapter with these settings."""
    return SampleWindow(model.sample, model.manifest.normalisation, size, stride, novelty, held_out)


def test_a_stride_takes_every_third_sample(model: AdaptiveModel) -> None:
    """The others are counted, not kept."""
    samples, x, y = window(model, stride=3), draw(1, 9, 3), draw(2, 9, 2)
    for each in zip(x, y, strict=True):
        samples.offer(*each)
    np.testing.assert_array_equal(samples.teachers.x, x[2::3])
    np.testing.assert_array_equal(samples.teachers.y, y[2::3])
    assert samples.left == {Left.STRIDE: 6}


def test_only_what_is_new_enters(model: AdaptiveModel, linear: Any) -> None:
    """Distance counts x and y in the normalisation's scales, against teachers and judges alike."""
    samples, x, y = window(model, novelty=0.1, held_out=2), draw(1, 3), draw(2, 2)
    scale = linear.x_scale, linear.y_scale
    samples.offer(x, y)
    samples.offer(x, y)
    samples.offer(x + 0.09 * scale[0], y + 0.09 * scale[1])
    assert samples.left == {Left.NEAR: 2}
    samples.offer(x + 0.11 * scale[0], y + 0.11 * scale[1])  # the second to enter: it judges
    samples.offer(x + 0.12 * scale[0], y + 0.12 * scale[1])
    assert samples.left == {Left.NEAR: 3}
    samples.offer(x, y + scale[1])  # the same input with another outcome: the robot has changed
    assert len(samples.teachers.x) == 2
    assert samples.judges
    assert len(samples.judges.x) == 1


def test_labels_are_compared_as_labels() -> None:
    """Of a classifier, the same input with another label is new; no label is scaled, or an outlier."""
    figures = Normalisation(input_center=(0.0,), input_scale=(1.0,), output_center=(0.0,), output_scale=(1.0,))
    sides = Side("x", (1,), np.dtype(np.float32), ()), Side("y", (), np.dtype(np.int64), (), classes=10_001)
    samples = SampleWindow(sides, figures, 6, 1, 0.5, 0)
    for x, y in ((0.0, 0), (0.1, 0), (0.1, 10_000), (0.2, 10_000), (2.0, 0)):
        samples.offer(np.array([x], np.float32), np.array(y))
    np.testing.assert_array_equal(samples.teachers.y, [0, 10_000, 0])
    assert samples.left == {Left.NEAR: 2}
    for label in (-1, 10_001):
        samples.offer(np.zeros(1, np.float32), np.array(label))
    assert samples.left == {Left.NEAR: 2, Left.NO_CLASS: 2}


def test_an_image_is_scaled_by_its_channels() -> None:
    """Centre and scale of one number a channel reach every pixel."""
    centers, scales = (((0.0,),), ((100.0,),)), (((1.0,),), ((10.0,),))
    figures = Normalisation(input_center=centers, input_scale=scales, output_center=(0.0,), output_scale=(1.0,))
    sides = Side("x", (2, 3, 4), np.dtype(np.float32), ()), Side("y", (1,), np.dtype(np.float32), ())
    samples, image = SampleWindow(sides, figures, 6, 1, 0.5, 0), np.zeros((2, 3, 4), np.float32)
    near, new = image.copy(), image.copy()
    near[1] += 6  # 0.6 of the scale in half of the numbers
    new[0] += 6
    for each in (image, near, new):
        samples.offer(each, np.zeros(1, np.float32))
    np.testing.assert_array_equal(samples.teachers.x, [image, new])


def test_a_guard_that_cannot_judge_the_model_says_so_at_once(write: Callable[..., Path], linear: Any) -> None:
    """Where v0 is zero there is no relative distance: the error comes before any thread, and names the way out."""
    zero = np.zeros((1, 4), np.float32)
    path = write({START: encode_start({"v": zero, "layer.weight": linear.fold(zero)})})
    model = AdaptiveModel.load(path, self_test=False)
    with pytest.raises(InputError, match="trust=inf"):
        OnlineAdapter(model)
    OnlineAdapter(model, guard=UpdateGuard(trust=math.inf))


def test_judges_and_teachers_share_the_time_span(model: AdaptiveModel) -> None:
    """Of 4 samples 3 teach and one judges, and both windows reach back equally far."""
    samples, x, y = window(model, size=6, held_out=4), draw(1, 40, 3), draw(2, 40, 2)
    assert not samples.judges
    for each in zip(x, y, strict=True):
        samples.offer(*each)
    assert samples.judges is not None
    assert {tuple(row) for row in samples.teachers.x.tolist()} == {
        tuple(x[i].tolist()) for i in range(32, 40) if i % 4 < 3
    }
    assert {tuple(row) for row in samples.judges.x.tolist()} == {tuple(x[i].tolist()) for i in (35, 39)}


QUIET = """
import sys, time
from msr_runtime import ActionGuard, AdaptiveModel, ControlLoop, OnlineAdapter
import numpy as np

model = AdaptiveModel.load(sys.argv[1])
guard = ActionGuard(model.manifest.outputs, hz=500, max_age=1)
ticking, seen = False, []
sys.addaudithook(lambda event, _: seen.append(event) if ticking else None)
rng = np.random.default_rng(0)
with OnlineAdapter(model, hz=100) as online, ControlLoop(hz=500, ticks=300) as loop:
    for tick in loop:
        ticking = tick > 50
        x = rng.standard_normal(3).astype(np.float32)
        guard(np.clip(online.predict(x), -10, 10), time.monotonic())
        online.observe(x, rng.standard_normal(2).astype(np.float32))
        loop.rate
    ticking = False
assert online.report().tried > 0 and guard.report().passed > 0
print(sorted(set(seen)))
"""


def test_nothing_is_opened_or_written_between_ticks(bundle_path: Path) -> None:
    """While the loop runs and the robot adapts, Python's audit sees no file, socket, import or process."""
    done = subprocess.run(
        [sys.executable, "-c", QUIET, bundle_path], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
