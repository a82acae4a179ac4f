"""Whether a task is like those of meta-training: limits for a rate of false alarms, and what a strange task does."""

import math
from pathlib import Path

import numpy as np
import pytest

from msr_envs.ring_nav import RingNav
from msr_runtime import AdaptiveModel, InputError, OnlineAdapter
from msr_runtime.adaptation.family import FamilyCheck, judge_batch
from msr_runtime.bundle.familiarity import Familiarity, ShotTail, Tail, UsualInnovation, usual_nis
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.bundle.surprise import SURPRISE
from msr_runtime.recording.messages import ONLINE
from msr_runtime.recording.reader import Recording
from msr_runtime.recording.recorder import Recorder

KNOWN = Familiarity(
    tasks=100,
    samples=120,
    window=4,
    largest=Tail(usual=2.0, slope=0.5),
    by_shots=tuple(ShotTail(shots=shots, surprise=Tail(usual=6.0 / shots, slope=0.5)) for shots in (1, 2, 6)),
)


@pytest.fixture(scope="module")
def loaded(recursive_bundle: Path) -> AdaptiveModel:
    """The bundle, loaded once."""
    return AdaptiveModel.load(recursive_bundle)


@pytest.fixture
def manifest(loaded: AdaptiveModel) -> Manifest:
    """Its manifest, with the figures from above: 10 Hz, and two numbers in y."""
    return loaded.manifest.model_copy(update={"familiarity": KNOWN})


def center(manifest: Manifest) -> np.ndarray:
    """The y whose normalized numbers are zero: its size is 1."""
    return np.array(manifest.normalization.output_center, np.float32)


def check_of(manifest: Manifest, false_alarms: float) -> FamilyCheck:
    """Return the check of a manifest that knows clean tasks."""
    assert manifest.familiarity
    assert manifest.recursion
    return FamilyCheck(manifest.familiarity, manifest.recursion.tick, manifest.normalization, false_alarms)


def limit(manifest: Manifest, false_alarms: float) -> float:
    return check_of(manifest, false_alarms).now.limit


def test_the_limit_follows_from_the_false_alarms(manifest: Manifest) -> None:
    """Half of them are for windows. Streams of 12 s have fewer than a minute, but not a fifth."""
    chance = 0.005 * 0.2**0.5
    assert limit(manifest, 0.01) == pytest.approx(2 * (0.1 / chance) ** 0.5)
    assert limit(manifest, 0.001) / limit(manifest, 0.01) == pytest.approx(10**0.5, rel=0.01)
    for wrong in (0.0, 0.2, math.nan):
        with pytest.raises(InputError, match=r"a share above 0 and at most 0\.1 a minute"):
            check_of(manifest, wrong)


def run(check: FamilyCheck, manifest: Manifest, nis: tuple[int, ...]) -> list[tuple[bool, int]]:
    """Add samples, and return after each whether the task may be one of the family, and the alarms."""
    seen = []
    for each in nis:
        check.add(float(each), center(manifest))
        seen.append((check.now.inside, check.now.alarms))
    return seen


def test_an_alarm_needs_a_whole_window_and_is_counted_once(manifest: Manifest) -> None:
    """It ends when the surprise is below the limit again; a new task forgets the samples, not the count."""
    late = KNOWN.model_copy(update={"by_shots": KNOWN.by_shots[:2]})  # nothing is said of the beginning
    manifest = manifest.model_copy(update={"familiarity": late})
    check = check_of(manifest, 0.1)  # the limit is 4.2
    # the surprise is 7.5 from the fourth sample on, then 5.6 and three times 3.8
    seen = run(check, manifest, (15, 15, 15, 15, 0, 0, 15, 15))
    assert seen == [(True, 0)] * 3 + [(False, 1)] * 2 + [(True, 1)] * 3
    assert run(check, manifest, (15,)) == [(False, 2)]
    assert "outside the family" in str(check.now)
    check.begin_task()
    assert (check.now.inside, check.now.alarms, str(check.now)) == (True, 2, "not known yet")


def test_the_beginning_of_a_task_is_judged_by_all_its_samples(manifest: Manifest) -> None:
    """Six samples that each surprise less than a window may are too many. It is said until a whole window later."""
    check = check_of(manifest, 0.1)  # the limit is 1.4 for six samples, and 4.2 for a window
    seen = run(check, manifest, (4,) * 6 + (0,) * 5)
    assert seen == [(True, 0)] * 5 + [(False, 1)] * 5 + [(True, 1)]


def test_one_outlier_is_no_other_task(manifest: Manifest) -> None:
    """Whatever it is: it counts at most `SURPRISE`."""
    check = check_of(manifest, 0.001)
    for nis in (1, 1, 1, 1e30):
        check.add(nis, center(manifest))
    assert check.now.surprise == pytest.approx((1.5 + SURPRISE) / 4, rel=1e-5)
    assert check.now.inside


def test_what_is_usual_after_as_many_samples_is_divided_out(manifest: Manifest) -> None:
    """A filter that is always too careful with its second and third sample is as surprised by 0.5 as by 5 later on."""
    usual = (
        UsualInnovation(samples=1, nis=1.0),
        UsualInnovation(samples=3, nis=0.1),
        UsualInnovation(samples=9, nis=1.0),
    )
    assert [usual_nis(usual, count) for count in (1, 2, 3, 4, 9, 10, 1000)] == [1.0, 0.1, 0.1, 1.0, 1.0, 1.0, 1.0]
    assert usual_nis((), 7) == 1.0
    check = check_of(manifest.model_copy(update={"familiarity": KNOWN.model_copy(update={"usual": usual})}), 0.001)
    for nis in (10, 1, 1, 10):  # of two numbers in y
        check.add(nis, center(manifest))
    assert check.now.surprise == pytest.approx(5, rel=1e-5)
    check.begin_task()
    for nis in (10, 10, 10, 10):  # the count begins anew
        check.add(nis, center(manifest))
    assert check.now.surprise == pytest.approx((5 + SURPRISE + SURPRISE + 5) / 4, rel=1e-5)


def test_errors_may_grow_with_y(manifest: Manifest) -> None:
    """A y that is three scales from the center makes an error ten times as large as usual."""
    check, scale = check_of(manifest, 0.01), np.array(manifest.normalization.output_scale)
    for _ in range(4):
        check.add(40.0, center(manifest) + 3 * scale)
    assert check.now.surprise == pytest.approx(2.0, rel=1e-4)


def test_a_batch_is_judged_by_its_size() -> None:
    """Between two sizes the wider limit holds, and beyond them that of the nearest."""
    for shots, nearest in ((1, 1), (2, 2), (3, 2), (6, 6), (50, 6)):
        verdict = judge_batch(KNOWN, 1.0, shots)
        assert verdict
        assert verdict.limit == pytest.approx(6 / nearest * 10**0.5)
    outside = judge_batch(KNOWN, 10.0, 6)
    assert outside
    assert not outside.inside
    assert judge_batch(None, 10.0, 6) is judge_batch(KNOWN, math.nan, 6) is None


def test_clean_tasks_are_inside_and_a_strange_one_is_found(loaded: AdaptiveModel, tmp_path: Path) -> None:
    """By what the exporter measured. The report and the recording say it."""
    batch = RingNav().sample(np.random.default_rng(9), 20, 60, 2, "test")
    alarms, supports = 0, 0
    for x, y in zip(batch.support_x, batch.support_y, strict=True):
        online, model = OnlineAdapter(loaded.fork()), loaded.fork()
        for tick in range(60):
            online.observe(x[tick], y[tick], at=tick / 10)
        online.step()
        family, batched = online.report().family, model.adapt(x[:10], y[:10]).family
        assert family
        assert batched
        alarms, supports = alarms + family.alarms, supports + (not batched.inside)
    assert (alarms, supports) <= (1, 1)

    x, y = batch.support_x[0], batch.support_y[0]
    strange = np.where(np.random.default_rng(0).random(y.shape) < 0.5, -0.95, 0.95).astype(np.float32)
    model = loaded.fork()
    with Recorder(tmp_path / "a.mcap", model) as recorder:
        with OnlineAdapter(model, recorder=recorder) as online:
            for tick in range(60):
                online.observe(x[tick], strange[tick], at=tick / 10)
        report = online.report()
    assert report.family
    assert report.family.alarms
    assert "\ntask      surprise" in str(report)
    recording = Recording.open(tmp_path / "a.mcap")
    *_, told = recording.events(ONLINE)
    assert b'"family":{"surprise":' in told.data.replace(b" ", b"")
    found = loaded.fork().adapt(x[:10], strange[:10]).family
    assert found
    assert not found.inside


def test_what_learns_from_batches_says_nothing(bundle_path: Path) -> None:
    """It does not know how sure it is."""
    model = AdaptiveModel.load(bundle_path)
    assert OnlineAdapter(model).report().family is None
    x = np.random.default_rng(0).standard_normal((10, 3))
    assert model.adapt(x, x[:, :2]).family is None
