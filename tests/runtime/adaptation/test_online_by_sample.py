"""OnlineAdapter with a bundle that learns sample by sample: each counts at its time, in threads and in replays."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, InputError, OnlineAdapter, UpdateGuard
from msr_runtime.adaptation import Drive, score
from msr_runtime.adaptation.family import FamilyCheck
from msr_runtime.adaptation.input_faults import FaultCheck
from msr_runtime.recording.messages import ADAPTATION
from msr_runtime.recording.reader import Recording
from msr_runtime.recording.recorder import Recorder
from msr_runtime.recording.replay import replay

TAU = 2.0  # s
BOTH = pytest.mark.parametrize("model", ["onnx", "native"], indirect=True)
"""Runs a test in ONNX Runtime and in native code."""


@pytest.fixture(scope="module")
def loaded(recursive_bundle: Path) -> AdaptiveModel:
    """The bundle, loaded once. It forgets."""
    return AdaptiveModel.load(recursive_bundle, time_constant=TAU)


@pytest.fixture
def model(request: pytest.FixtureRequest, loaded: AdaptiveModel) -> AdaptiveModel:
    """A model of this bundle at v0: in ONNX Runtime, or by the engine that a test asks for."""
    if getattr(request, "param", "onnx") == "onnx":
        return loaded.fork()
    native = request.getfixturevalue("native_recursive_bundle")
    return AdaptiveModel.load(native, self_test=False, time_constant=TAU, engine="native")


def task(model: AdaptiveModel, seed: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a robot whose y are those of the network at v0, times a factor of the task."""
    rng = np.random.default_rng(seed)
    low, high = (
        np.concatenate([np.full(field.size, getattr(field, end)) for field in model.manifest.inputs])
        for end in ("low", "high")
    )
    x = rng.uniform(low, high, (samples, len(low))).astype(np.float32)
    y = np.clip(rng.uniform(0.5, 1.5) * model.fork().predict(x) + 0.05, -0.9, 0.9)
    return x, y.astype(np.float32)


def run(online: OnlineAdapter, x: np.ndarray, y: np.ndarray, at: np.ndarray) -> None:
    """Observe and learn, sample by sample."""
    for one_x, one_y, when in zip(x, y, at.tolist(), strict=True):
        online.observe(one_x, one_y, at=when)
        online.step()


def by_hand(model: AdaptiveModel, x: np.ndarray, y: np.ndarray, at: np.ndarray) -> list[float]:
    """Update a model sample by sample; return the squared errors before each, on normalized outputs."""
    errors, scale = [], np.asarray(model.manifest.normalization.output_scale)
    for index, (one_x, one_y) in enumerate(zip(x, y, strict=True)):
        result = model.update(one_x, one_y, max(0.0, at[index] - at[index - 1]) if index else 0.0)
        errors.append(float(np.mean((result.innovation / scale) ** 2)))
    return errors


@BOTH
def test_each_sample_counts_at_its_time(model: AdaptiveModel) -> None:
    """From the first one on, gaps included: the weights are those of plain updates."""
    x, y = task(model, 0, 30)
    at = np.arange(30) / 8
    at[10:] += 5.0  # a gap: most of what was learned fades
    online = OnlineAdapter(model, compare=1e9)
    assert online.by_sample
    run(online, x[:1], y[:1], at[:1])
    assert online.report().accepted == 1
    run(online, x[1:], y[1:], at[1:])
    plain = model.fork()
    errors = by_hand(plain, x, y, at)
    np.testing.assert_array_equal(model.v, plain.v)
    report = online.report()
    assert (report.tried, report.accepted, report.entered) == (30, 30, 30)
    assert report.helping
    np.testing.assert_allclose(report.helping.adapted, np.mean(errors), rtol=1e-4)


def test_samples_out_of_order_are_sorted_or_count_as_present(model: AdaptiveModel) -> None:
    """Those of one step are put in order. One that comes after a later one lets no time pass."""
    x, y = task(model, 1, 6)
    online = OnlineAdapter(model)
    for index in (2, 0, 1):
        online.observe(x[index], y[index], at=index / 8)
    online.step()
    run(online, x[3:], y[3:], np.array([5, 4, 6]) / 8)
    plain = model.fork()
    for index, elapsed in enumerate((0, 1, 1, 3, 0, 1)):
        plain.update(x[index], y[index], elapsed / 8)
    np.testing.assert_array_equal(model.v, plain.v)
    assert online.report().late == 1


def test_a_time_far_off_ends_nothing(model: AdaptiveModel) -> None:
    """Two finite times may be infinitely far apart: nothing is left of what was learned, and learning goes on."""
    x, y = task(model, 1, 6)
    run(OnlineAdapter(model), x, y, np.array([0, 1, 2, -1.7e308, 1.7e308, 3]))
    run(other := OnlineAdapter(model.fork()), x[:2], y[:2], np.array([-1.7e308, 1.7e308]))
    assert other.report().accepted == 2


def test_y_that_come_late_are_learned_at_the_time_of_their_x(model: AdaptiveModel) -> None:
    """Three ticks later, the weights are those of samples that were known at once."""
    x, y = task(model, 2, 12)
    at = np.arange(12) / 8
    online, waiting = OnlineAdapter(model), []
    for index in range(12):
        waiting.append(online.observe(x[index], at=at[index]))
        if index >= 3:
            assert online.label(waiting[index - 3], y[index - 3])
        online.step()
    plain = model.fork()
    by_hand(plain, x[:9], y[:9], at[:9])
    np.testing.assert_array_equal(model.v, plain.v)
    assert online.report().open == 3


def test_a_new_task_begins_at_v0_or_less_sure(model: AdaptiveModel) -> None:
    """A factor keeps v, and the next sample counts more than it would have."""
    x, y = task(model, 3, 21)
    at, v0 = np.arange(21) / 8, model.v
    online = OnlineAdapter(model)
    run(online, x[:20], y[:20], at[:20])
    v = model.v
    online.task_changed(inflate=100.0)
    online.step()
    np.testing.assert_array_equal(model.v, v)
    plain = model.fork()
    by_hand(plain, x[:20], y[:20], at[:20])
    sure, unsure = (each.predict(x[20], std=True) for each in (plain, model))
    assert (unsure.epistemic > sure.epistemic).all()
    online.task_changed()
    online.step()
    np.testing.assert_array_equal(model.v, v0)
    assert online.report().tasks == 3


def test_a_window_stays_possible(model: AdaptiveModel) -> None:
    """It is taken in the order of time, from v0: its oldest sample first."""
    x, y = task(model, 4, 14)
    online = OnlineAdapter(model, window=10, held_out=0, by_sample=False, guard=UpdateGuard(trust=math.inf))
    run(online, x, y, np.arange(14) / 8)
    plain = model.fork()
    plain.adapt(x[4:], y[4:], guard=UpdateGuard(trust=math.inf))
    np.testing.assert_array_equal(model.v, plain.v)
    assert online.report().tried == 5


@BOTH
def test_the_thread_learns_every_sample(model: AdaptiveModel) -> None:
    """And the end of the `with` waits for the last ones."""
    x, y = task(model, 5, 40)
    with OnlineAdapter(model) as online:
        for index in range(40):
            online.observe(x[index], y[index], at=index / 8)
            assert np.isfinite(online.predict(x[index])).all()
    plain = model.fork()
    by_hand(plain, x, y, np.arange(40) / 8)
    np.testing.assert_array_equal(model.v, plain.v)
    assert online.report().accepted == 40


def test_what_was_learned_replays_exactly(model: AdaptiveModel, tmp_path: Path, loaded: AdaptiveModel) -> None:
    """Updates, changes of the task and held weights: the recording gives every action again, to the last bit."""
    guard = UpdateGuard(hold_v0=True)
    x, _ = task(model, 6, 60)
    y = np.clip(model.fork().predict(x), -0.9, 0.9)  # nothing is better than v0
    y[:6] *= -1  # and what is learned from these does harm
    with Recorder(tmp_path / "a.mcap", model) as recorder:
        online = OnlineAdapter(model, guard=guard, compare=8, recorder=recorder)
        held = []
        for index in range(60):
            recorder.observation(x[index])
            recorder.action(online.predict(x[index]))
            online.observe(x[index], y[index], at=index / 8)
            if index in (20, 30):
                online.task_changed(inflate=4.0 if index == 20 else None)
            online.step()
            held.append(online.report().holds_v0)
    recording = Recording.open(tmp_path / "a.mcap")
    told = [recording.adaptation(event).kind for event in recording.events(ADAPTATION)]
    assert told.count("update") == 58  # the task changed before two of them were learned from
    assert told.count("reset") == 2
    assert any(held)
    assert "hold" in told
    found = replay(recording, loaded.fork(), tolerance=0.0)
    assert (found.same, found.actions) == (True, 60)


def test_a_log_is_scored(model: AdaptiveModel) -> None:
    """Each sample before the model learns from it; the errors are those of its innovations."""
    x, y = task(model, 7, 50)
    at = np.arange(50) / 8
    found = score(model, [Drive("one", x, y, at, at)])
    wanted = []
    plain = model.fork()
    for index in range(50):
        wanted.append((plain.predict(x[index]) - y[index]) ** 2 / y.var(0))
        plain.update(x[index], y[index], 1 / 8 if index else 0.0)
    np.testing.assert_allclose(found.errors["adapted"], np.mean(wanted), rtol=1e-4)
    assert found.tried == 49  # nothing is predicted after the last sample


def test_a_batch_bundle_cannot_learn_by_sample(bundle_path: Path) -> None:
    """The error names its rule; nor can it be less sure of what it learned."""
    model = AdaptiveModel.load(bundle_path)
    with pytest.raises(InputError, match="has the rule 'gradient', of batches"):
        OnlineAdapter(model, by_sample=True)
    with pytest.raises(InputError, match="only a model that learns sample by sample knows how sure it is"):
        OnlineAdapter(model).task_changed(inflate=2.0)


@pytest.mark.parametrize("factor", [0.5, math.nan])
def test_a_factor_below_one_is_refused(model: AdaptiveModel, factor: float) -> None:
    """At once, in the caller."""
    online: Any = OnlineAdapter(model)
    with pytest.raises(InputError, match="a factor of 1 or more is wanted"):
        online.task_changed(inflate=factor)


def jump(model: AdaptiveModel, online: OnlineAdapter, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Observe 20 samples of a task, then two that say the opposite of what is predicted. Return all of them."""
    x, y = task(model, seed, 22)
    run(online, x[:20], y[:20], np.arange(20) / 8)
    for index in (20, 21):
        y[index] = -(0.99 - 0.01 * (index - 20)) * np.sign(model.predict(x[index]))  # not twice the same
        run(online, x[index : index + 1], y[index : index + 1], np.array([index / 8]))
    return list(zip(x, y, strict=True))


@BOTH
def test_a_jump_is_noticed(model: AdaptiveModel) -> None:
    """The weights are those of v0 after the two samples that showed it, and the family's verdict begins again."""
    online = OnlineAdapter(model)
    samples = jump(model, online, 8)
    plain = model.fork()
    plain.reset()
    for x, y in samples[-2:]:
        plain.update(x, y, 1 / 8)
    np.testing.assert_array_equal(model.v, plain.v)
    report = online.report()
    assert (report.restarts, report.tasks, report.accepted) == (1, 1, 22)
    assert "changes of the task noticed: 1" in str(report)


def test_a_sample_that_shows_a_change_is_no_fault_of_the_task_before(
    model: AdaptiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end as an alarm without a name. So the checks see it once, as a sample of the new task."""
    seen: list[str] = []
    for check in (FamilyCheck, FaultCheck):
        for name in ("add", "begin_task"):
            monkeypatch.setattr(check, name, noted(getattr(check, name), f"{check.__name__}.{name}", seen))
    online = OnlineAdapter(model)
    jump(model, online, 8)
    assert online.report().restarts == 1
    for check in ("FamilyCheck", "FaultCheck"):
        assert [each for each in seen if each.startswith(check)] == [
            f"{check}.begin_task",
            *[f"{check}.add"] * 21,
            f"{check}.begin_task",
            *[f"{check}.add"] * 2,
        ]


def noted(method: Callable[..., None], name: str, seen: list[str]) -> Callable[..., None]:
    """Return a method that also writes its name down."""

    def both(*args: Any) -> None:
        seen.append(name)
        method(*args)

    return both


def test_a_jump_may_stay_unnoticed(model: AdaptiveModel) -> None:
    online = OnlineAdapter(model, detect_changes=False)
    samples = jump(model, online, 8)
    plain = model.fork()
    plain.reset()
    for index, (x, y) in enumerate(samples):
        plain.update(x, y, 1 / 8 if index else 0.0)
    np.testing.assert_array_equal(model.v, plain.v)
    assert online.report().restarts == 0


def test_a_noticed_jump_replays_exactly(model: AdaptiveModel, tmp_path: Path, loaded: AdaptiveModel) -> None:
    with Recorder(tmp_path / "a.mcap", model) as recorder:
        online = OnlineAdapter(model, recorder=recorder)
        jump(model, online, 8)
        x = np.zeros(len(task(model, 0, 1)[0][0]), np.float32)
        recorder.observation(x)
        recorder.action(online.predict(x))
    assert online.report().restarts == 1
    found = replay(Recording.open(tmp_path / "a.mcap"), loaded.fork(), tolerance=0.0)
    assert (found.same, found.actions) == (True, 1)


def test_a_y_that_is_stuck_is_not_learned(model: AdaptiveModel) -> None:
    """From the fifth x on, and it is no other task. What comes after it is learned again."""
    online = OnlineAdapter(model)
    x, y = task(model, 8, 40)
    y[15:35] = -0.99 * np.sign(y[14])
    run(online, x[:19], y[:19], np.arange(19) / 8)
    v = model.v
    run(online, x[19:35], y[19:35], np.arange(19, 35) / 8)
    report = online.report()
    assert (report.refused, report.restarts, report.accepted) == ({"y stuck": 16}, 0, 19)
    np.testing.assert_array_equal(model.v, v)
    run(online, x[35:], y[35:], np.arange(35, 40) / 8)
    assert online.report().accepted == 24


def test_one_y_for_all_may_be_meant(model: AdaptiveModel) -> None:
    online = OnlineAdapter(model, guard=UpdateGuard(constant_y=True))
    x, y = task(model, 8, 10)
    run(online, x, np.repeat(y[:1], 10, 0), np.arange(10) / 8)
    assert online.report().accepted == 10
