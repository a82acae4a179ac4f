"""OnlineAdapter without its thread: logs give the same weights again, y may come late, tasks change, v0 is held."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, InputError, OnlineAdapter, UpdateGuard
from msr_runtime.adaptation.comparison import Verdict
from msr_runtime.adaptation.sample_window import LeftOut
from msr_runtime.recording.messages import ADAPTATION, ONLINE
from msr_runtime.recording.reader import Recording
from msr_runtime.recording.recorder import Recorder
from msr_runtime.recording.replay import replay

Task = Callable[..., tuple[np.ndarray, np.ndarray]]


def draw(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def task(linear: Any) -> Task:
    """A function that draws samples of a robot whose v is v0 plus `shift`. Their y is inside its bounds."""

    def samples(seed: int, count: int, shift: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
        x = draw(seed, 20 * count, 3)
        y = linear.predict(linear.v0 + np.float32(shift), x)
        inside = np.flatnonzero((np.abs(y) < 10).all(1))[:count]
        assert len(inside) == count
        return x[inside], y[inside]

    return samples


def run(online: OnlineAdapter, x: np.ndarray, y: np.ndarray) -> None:
    """Observe and learn, sample by sample."""
    for one_x, one_y in zip(x, y, strict=True):
        online.observe(one_x, one_y)
        online.step()


def test_the_same_log_gives_the_same_weights(model: AdaptiveModel, linear: Any, task: Task) -> None:
    """To the last bit; they are numpy's of the latest window, and no thread was there."""
    x, y = task(1, 12)
    found = []
    for each in (model.fork(), model.fork()):
        online = OnlineAdapter(each, window=5, held_out=0)
        run(online, x, y)
        found.append(each.v)
        assert online.report().tried == 8
        assert online.report().observed == online.report().entered == 12
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], linear.adapt(x[-5:], y[-5:], 3), rtol=1e-4)
    assert not any(thread.name == "msr-online" for thread in threading.enumerate())


def test_a_step_beside_the_thread_is_refused(model: AdaptiveModel) -> None:
    """Two threads would learn from one window."""
    with OnlineAdapter(model) as online, pytest.raises(InputError, match="whose thread learns already"):
        online.step()


def test_y_that_come_late_give_the_same_weights(model: AdaptiveModel, linear: Any, task: Task) -> None:
    """Three ticks after their x, and in pairs the wrong way round."""
    x, y = task(1, 8)
    online = OnlineAdapter(model, window=5, held_out=0)
    seen = [online.observe(each) for each in x[:3]]
    for tick in range(3, 8, 1):
        seen.append(online.observe(x[tick]))
        online.step()
    assert (online.report().open, online.report().tried) == (8, 0)
    assert "8 without y so far" in str(online.report())
    for pair in ((1, 0), (3, 2), (5, 4), (7, 6)):
        for index in pair:
            assert online.label(seen[index], y[index])
        online.step()
    report = online.report()
    assert (report.open, report.entered, report.late) == (0, 8, 0)  # each pair was put in order
    np.testing.assert_allclose(model.v, linear.adapt(x[3:], y[3:], 3), rtol=1e-4)


def test_what_came_after_a_later_sample_is_counted(model: AdaptiveModel, task: Task) -> None:
    """It enters all the same: a batch has no order."""
    x, y = task(1, 3)
    online = OnlineAdapter(model, window=5, held_out=0)
    for index in (0, 2, 1):
        online.observe(x[index], y[index], at=float(index))
        online.step()
    assert (online.report().entered, online.report().late) == (3, 1)
    assert "1 late" in str(online.report())


def test_a_y_without_x_is_counted(model: AdaptiveModel) -> None:
    """And so is an x whose place was taken before its y came."""
    online = OnlineAdapter(model, window=1, held_out=0)
    assert not online.label(12.0, [0, 0])
    first = online.observe([0, 0, 0])
    for _ in range(4):
        online.observe([0, 0, 0])
    assert not online.label(first, [0, 0])
    online.step()
    assert online.report().left_out == {str(LeftOut.NO_X): 2, str(LeftOut.NO_Y): 1}
    assert online.report().observed == 3


@pytest.mark.parametrize("at", [np.nan, np.inf])
def test_a_time_that_is_none_is_refused(model: AdaptiveModel, at: float) -> None:
    """At once, and nothing is queued."""
    online = OnlineAdapter(model)
    with pytest.raises(InputError, match="a finite time in s is wanted"):
        online.observe([0, 0, 0], [0, 0], at=at)
    assert online.report().waiting == 0


def test_a_new_task_begins_at_v0_without_samples_of_the_old_one(model: AdaptiveModel, linear: Any, task: Task) -> None:
    """Not even with those whose y comes after the change."""
    x, y = task(1, 12)
    online = OnlineAdapter(model, window=5, held_out=0)
    run(online, x[:5], y[:5])
    assert online.report().accepted == 1
    late = online.observe(x[5])
    online.task_changed()
    assert online.label(late, y[5])
    online.step()
    np.testing.assert_array_equal(model.v, linear.v0)
    assert online.report().left_out == {str(LeftOut.OLD_TASK): 1}
    assert online.report().tasks == 2
    run(online, x[6:10], y[6:10])
    assert online.report().accepted == 1  # four samples are fewer than in meta-training
    run(online, x[10:11], y[10:11])
    np.testing.assert_allclose(model.v, linear.adapt(x[6:11], y[6:11], 3), rtol=1e-4)


def test_frozen_weights_stay(model: AdaptiveModel, linear: Any, task: Task) -> None:
    """Until they are told to learn again."""
    x, y = task(1, 15)
    online = OnlineAdapter(model, window=5, held_out=0)
    run(online, x[:5], y[:5])
    v = model.v
    online.freeze()
    run(online, x[5:10], y[5:10])
    assert online.report().frozen
    assert ", frozen" in str(online.report())
    assert online.report().left_out == {str(LeftOut.FROZEN): 5}
    np.testing.assert_array_equal(model.v, v)
    online.unfreeze()
    run(online, x[10:], y[10:])
    np.testing.assert_allclose(model.v, linear.adapt(x[10:], y[10:], 3), rtol=1e-4)


def test_the_report_says_that_adapting_helps(model: AdaptiveModel, linear: Any, task: Task) -> None:
    """The figures are those of predictions before each sample was learned from, and cost no count of `predict`."""
    x, y = task(1, 40)
    predicted = []
    online = OnlineAdapter(model, window=5, held_out=0, compare=1e9)
    for one_x, one_y in zip(x, y, strict=True):
        predicted.append(online.predict(one_x))
        online.observe(one_x, one_y)
        online.step()
    helping = online.report().helping
    assert helping
    assert helping.samples == 40
    scale = linear.y_scale
    for seen, answers in ((helping.adapted, np.array(predicted)), (helping.v0, linear.predict(linear.v0, x))):
        np.testing.assert_allclose(seen, np.mean(((answers - y) / scale) ** 2), rtol=1e-3)
    assert helping.verdict is Verdict.HELPS
    assert "adapting helps" in str(online.report())


def test_many_samples_at_once_are_compared_like_single_ones(model: AdaptiveModel, task: Task) -> None:
    """Forty samples before one step: the network has learned from none of them."""
    x, y = task(1, 40)
    online = OnlineAdapter(model, window=40, compare=1e9)
    for one_x, one_y in zip(x, y, strict=True):
        online.observe(one_x, one_y)
    online.step()
    helping = online.report().helping
    assert helping
    assert helping.samples == 40
    assert helping.adapted == helping.v0


@pytest.mark.parametrize("compare", [0.5, np.inf, np.nan])
def test_a_comparison_over_no_samples_is_refused(model: AdaptiveModel, compare: float) -> None:
    """None is how to compare nothing."""
    with pytest.raises(InputError, match="1 or more samples are wanted, or None"):
        OnlineAdapter(model, compare=compare)
    assert OnlineAdapter(model, compare=None).report().helping is None


def test_holding_v0_needs_the_comparison(model: AdaptiveModel) -> None:
    """Without it nobody would know when adapting hurts."""
    with pytest.raises(InputError, match="but nothing is compared"):
        OnlineAdapter(model, guard=UpdateGuard(hold_v0=True), compare=None)


def test_v0_acts_while_adapting_hurts_and_no_longer(
    model: AdaptiveModel, linear: Any, task: Task, tmp_path: Path, bundle_path: Path
) -> None:
    """A task that changes with every sample misleads; then it stays. The recording replays to the last bit."""
    guard = UpdateGuard(trust=np.inf, hold_v0=True)
    states = []
    with Recorder(tmp_path / "a.mcap", model) as recorder:
        online = OnlineAdapter(model, window=1, held_out=0, guard=guard, compare=16, recorder=recorder)

        def drive(x: np.ndarray, y: np.ndarray) -> None:
            for one_x, one_y in zip(x, y, strict=True):
                recorder.observation(one_x)
                recorder.action(online.predict(one_x))
                online.observe(one_x, one_y)
                online.step()
                states.append((online.report().holds_v0, np.array_equal(model.v, linear.v0)))

        x, y = task(2, 60)
        x[1::2], y[1::2] = task(3, 30, -0.3)
        drive(x, y)
        hurt = online.report()
        drive(*task(4, 60))
        recorder.online(online.report())
    assert hurt.holds_v0
    assert "v0 acts, because adapting hurts" in str(hurt)
    assert hurt.helping
    assert hurt.helping.adapted > hurt.helping.v0
    assert all(held == at_v0 for held, at_v0 in states[1:])
    assert not online.report().holds_v0
    assert not np.array_equal(model.v, linear.v0)
    recording = Recording.open(tmp_path / "a.mcap")
    told = [recording.adaptation(event).kind for event in recording.events(ADAPTATION)]
    assert told.count("hold") == told.count("release") >= 1
    report = replay(recording, AdaptiveModel.load(bundle_path), tolerance=0.0)
    assert (report.same, report.actions) == (True, 120)
    assert len(list(recording.events(ONLINE))) == 1
