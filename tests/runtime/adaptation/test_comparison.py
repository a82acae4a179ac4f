"""The running comparison: its figures are those of the plain formulas, and its verdict is not fooled by chance."""

import math

import numpy as np
import pytest

from msr_runtime.adaptation.comparison import Answers, Comparison, Helping, Verdict
from msr_runtime.inference.sample_spec import SampleSpec
from msr_runtime.normalization import Normalization

TWO = SampleSpec("support_y", (2,), np.dtype(np.float32), ())
SCALES = Normalization(input_center=(0,), input_scale=(1,), output_center=(1, -1), output_scale=(2, 0.5))


def by_hand(adapted: np.ndarray, at_v0: np.ndarray, y: np.ndarray, memory: float) -> list[float]:
    """The four errors, sample by sample."""
    center, scale = np.array([1, -1]), np.array([2, 0.5])
    adapted, at_v0, y = ((each - center) / scale for each in (adapted, at_v0, y))
    mean, weight, errors = np.zeros(2), 0.0, []
    for index, target in enumerate(y):
        last = y[index - 1] if index else np.zeros(2)
        errors.append([np.mean((each - target) ** 2) for each in (adapted[index], at_v0[index], mean, last)])
        weight = math.exp(-1 / memory) * weight + 1
        mean = mean + (target - mean) / weight
    weights = np.exp(-np.arange(len(y))[::-1] / memory)
    return (weights @ np.array(errors) / weights.sum()).tolist()


def figures(now: Helping) -> list[float]:
    return [now.adapted, now.v0, now.mean, now.last]


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("parts", [1, 2, 7, 60])
def test_the_figures_do_not_depend_on_how_samples_come(parts: int) -> None:
    """One by one or all at once: they are those of the plain formulas."""
    y, adapted, at_v0 = draw(0, 60, 2), draw(1, 60, 2), draw(2, 60, 2)
    comparison = Comparison(TWO, SCALES, 16.0)
    for at in np.array_split(np.arange(60), parts):
        comparison.add(adapted[at], at_v0[at], y[at])
    assert comparison.now.samples == 60
    np.testing.assert_allclose(figures(comparison.now), by_hand(adapted, at_v0, y, 16.0), rtol=1e-9)


def compared(better: float, samples: int = 200, seed: int = 0) -> Helping:
    """Compare a network whose error is `better` times that of v0, with noise of its own."""
    y, comparison = draw(seed, samples, 2), Comparison(TWO, SCALES, 64.0)
    comparison.add(y + math.sqrt(better) * draw(seed + 1, samples, 2), y + draw(seed + 2, samples, 2), y)
    return comparison.now


def test_the_verdict_says_what_the_errors_say() -> None:
    """Half the error helps and twice the error hurts; ten samples are too few to tell."""
    assert compared(0.3).verdict is Verdict.HELPS
    assert compared(3.0).verdict is Verdict.HURTS
    assert compared(0.3, samples=9).verdict is Verdict.UNDECIDED
    assert "adapting helps" in str(compared(0.3))
    assert "adapting hurts" in str(compared(3.0))


def test_chance_decides_nothing() -> None:
    """Of 200 pairs of equally good networks, hardly one gets a verdict."""
    verdicts = [compared(1.0, seed=3 * seed).verdict for seed in range(200)]
    assert verdicts.count(Verdict.UNDECIDED) >= 196


def test_a_network_that_is_v0_gets_no_verdict() -> None:
    """The difference is exactly zero, and so is its noise."""
    y, comparison = draw(0, 50, 2), Comparison(TWO, SCALES, 64.0)
    comparison.add(draw(1, 50, 2), draw(1, 50, 2), y)
    assert comparison.now.verdict is Verdict.UNDECIDED
    assert comparison.better


def test_an_overflow_spoils_no_later_figure() -> None:
    """A sample whose prediction is not finite is not compared."""
    comparison = Comparison(TWO, SCALES, 64.0)
    y = draw(0, 3, 2)
    adapted = y.copy()
    adapted[1] = np.inf
    comparison.add(adapted, y + 1, y)
    comparison.add(adapted[1:2], y[1:2], y[1:2])
    assert comparison.now.samples == 2
    assert comparison.now.adapted == 0


def test_of_classes_the_wrong_labels_are_counted() -> None:
    """The mean is the most frequent label, and the last is the last one."""
    labels = SampleSpec("support_y", (), np.dtype(np.int64), (), classes=3)
    scales = Normalization(input_center=(0,), input_scale=(1,), output_center=(0, 0, 0), output_scale=(1, 1, 1))
    comparison = Comparison(labels, scales, 1e9)
    y = np.array([2, 2, 1, 2, 2])
    right, wrong = np.eye(3)[y], np.eye(3)[(y + 1) % 3]
    comparison.add(right, wrong, y)
    # before the first label, both answer 0
    np.testing.assert_allclose(figures(comparison.now), [0, 1, 2 / 5, 3 / 5], atol=1e-6)


def test_answers_that_never_fade_are_the_mean_of_all() -> None:
    """With an infinite memory, each sample counts alike."""
    answers, y = Answers(TWO, SCALES), draw(0, 20, 2)
    targets = answers.targets(y)
    means, lasts = answers.known(targets)
    np.testing.assert_allclose(means[19], targets[:19].mean(0))
    np.testing.assert_array_equal(lasts[1:], targets[:-1])
