"""What is surprising: measured as the robot measures it, with figures that describe the tail of clean tasks."""

from pathlib import Path

import numpy as np
import pytest

from msr_envs.ring_nav import RingNav
from msr_export.familiarity import (
    ENDS,
    FAULT_SAMPLES,
    fault_tails,
    measure_familiarity,
    surprises,
    tail,
    usual_innovations,
)
from msr_runtime import AdaptiveModel
from msr_runtime.bundle.familiarity import Familiarity
from msr_runtime.bundle.input_faults import Fit, by_count, steps_of
from msr_runtime.meta.training.checkpoint import Checkpoint, load_checkpoint


@pytest.fixture(scope="module")
def trained(recursive_bundle: Path) -> Checkpoint:
    """The checkpoint of the bundle."""
    return load_checkpoint(recursive_bundle.parent / "best.safetensors")


def test_torch_and_the_robot_are_surprised_alike(trained: Checkpoint, recursive_bundle: Path) -> None:
    """Sample by sample, beyond the memory of the rule. So is what a sample says of faults of x."""
    batch = RingNav().sample(np.random.default_rng(0), 3, 90, 2, "validation")
    found, fits = surprises(trained.learner, trained.normalization, batch.support_x, batch.support_y)
    assert fits
    model = AdaptiveModel.load(recursive_bundle)
    steps = steps_of(np.asarray(model.manifest.normalization.input_scale))
    for task in range(3):
        robot = model.fork()
        pairs = zip(batch.support_x[task], batch.support_y[task], strict=True)
        nis, said = [], []
        for x, y in pairs:
            slopes = robot.slopes(x, steps)
            result = robot.update(x, y)
            nis.append(result.nis)
            said.append(Fit.of(result.innovation, result.variance, slopes))
        np.testing.assert_allclose(found[task], nis, rtol=0.05, atol=1e-3)
        for name in ("pull", "weight", "squares"):
            robots = np.stack([getattr(fit, name) for fit in said])
            np.testing.assert_allclose(getattr(fits, name)[task], robots, rtol=0.05, atol=0.02 * np.abs(robots).max())


def test_the_bundle_says_what_is_usual(recursive_bundle: Path) -> None:
    """Two streams per task; the larger support sets come later."""
    known = AdaptiveModel.load(recursive_bundle, self_test=False).manifest.familiarity
    assert known
    assert known.tasks % 2 == 0
    assert (known.samples, known.window) == (128, 16)
    assert [each.shots for each in known.by_shots] == [1, 2, 5, 10, 20, 64]
    assert 0 < known.largest.usual <= 25
    assert [each.samples for each in known.usual] == [*ENDS, 128]
    assert all(0 < each.nis <= 25 for each in known.usual)
    assert [each.samples for each in known.faults] == list(FAULT_SAMPLES)


def test_one_stream_that_goes_astray_does_not_change_what_is_usual() -> None:
    """Clean tasks are as expected; whatever one of a hundred does, it counts at most 25."""
    nis = np.ones((100, 128))
    nis[3] = 1e12
    assert [each.nis for each in usual_innovations(nis)] == [1.24] * (len(ENDS) + 1)
    short = usual_innovations(np.full((4, 6), 2.0))
    assert [(each.samples, each.nis) for each in short] == [(1, 2), (2, 2), (3, 2), (5, 2), (6, 2)]


def test_other_rules_know_nothing_of_it(ring_run: Path) -> None:
    """They keep no variance."""
    other = load_checkpoint(ring_run / "best.safetensors")
    assert measure_familiarity(other.learner, other.normalization, RingNav(), noise=0.0, seed=0, tasks=2) is None


def test_noise_of_the_sensors_is_part_of_what_is_usual(trained: Checkpoint) -> None:
    """A robot whose sensors are as noisy as those of meta-training raises no alarm by them."""

    def measured(noise: float) -> Familiarity:
        found = measure_familiarity(trained.learner, trained.normalization, RingNav(), noise=noise, seed=0, tasks=4)
        assert found
        return found

    noisy, clean = (measured(noise).usual for noise in (3.0, 0.0))
    assert all(one.nis > other.nis for one, other in zip(noisy, clean, strict=True))


def test_the_tail_of_a_power_law_is_found() -> None:
    """Of many figures that exceed x with the chance `x ** -4`, one in a thousand is above the limit for that chance."""
    figures = np.random.default_rng(0).uniform(size=20_000) ** -0.25
    found = tail(figures)
    assert found.usual == pytest.approx(10**0.25, rel=0.02)
    assert found.slope == pytest.approx(0.25, rel=0.05)
    for chance in (0.1, 0.01, 0.001):
        assert (figures > found.limit(chance)).mean() == pytest.approx(chance, rel=0.35)
    assert tail(np.zeros(20)).limit(0.001) > 0


def test_all_looks_together_raise_as_few_alarms_as_promised() -> None:
    """After every sample, gains and offsets are looked at: one stream in a hundred may raise an alarm at all."""
    rng, streams = np.random.default_rng(0), 1000

    def clean() -> Fit:
        errors, slopes, x = (rng.normal(size=(streams, 64, *shape)) for shape in ((2,), (5, 2), (5,)))
        return Fit.of(errors, np.ones_like(errors), slopes).both(x)

    def alarms(chance: float) -> float:
        limits = by_count(counts, np.array([[each.gain.limit(chance), each.offset.limit(chance)] for each in known]))
        numbers = 2 * np.arange(1, 65)[:, None, None]
        summed = Fit(*(part.cumsum(1) for part in vars(fresh).values()))
        return float((summed.evidence(numbers).max(-1) > limits)[:, counts[0] - 1 :].any((1, 2)).mean())

    known, fresh = fault_tails(clean(), 2), clean()
    counts = [each.samples for each in known]
    assert counts == [10, 20, 40, 64]
    assert alarms(0.1) == pytest.approx(0.1, abs=0.03)
    assert 0.002 <= alarms(0.01) <= 0.02


def test_short_streams_say_nothing_of_faults() -> None:
    """Logs may have few samples a task."""
    nothing = np.zeros((4, 9, 2, 3))
    assert fault_tails(Fit(nothing, nothing, np.zeros((4, 9, 1, 1))), 2) == ()
