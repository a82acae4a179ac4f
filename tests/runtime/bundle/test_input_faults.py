"""Evidence that one number of x is at fault: on a linear robot, where it can be said by hand."""

import numpy as np
import pytest

from msr_runtime.bundle.input_faults import Fit, by_count, slopes, steps_of

MATRIX = np.array([[2.0, 0.0, 1.0], [0.5, -1.0, 0.0]], np.float32)


def predict(x: np.ndarray) -> np.ndarray:
    """Two numbers of y from three of x."""
    return x @ MATRIX.T


def test_slopes_are_those_of_the_network_per_scale() -> None:
    """Of a linear network, whatever the step; for one sample, and for any number of them."""
    x, scale = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], np.float32), np.array([1.0, 10.0, 0.1])
    wanted = MATRIX.T * scale[:, None]
    np.testing.assert_allclose(slopes(predict, x[0], steps_of(scale)), wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(slopes(predict, x, steps_of(scale)), [wanted, wanted], rtol=1e-3, atol=1e-4)


def noisy(factor: float = 1.0) -> tuple[Fit, np.ndarray, np.ndarray]:
    """Look at 50 samples, with errors larger than expected by the factor: what they say, errors and variances."""
    rng = np.random.default_rng(0)
    variances = rng.uniform(0.5, 2.0, (50, 2))
    errors = factor * variances**0.5 * rng.normal(size=(50, 2))
    each = Fit.of(errors, variances, np.broadcast_to(MATRIX.T, (50, 3, 2)))
    return Fit(each.pull.sum(0), each.weight.sum(0), each.squares.sum(0)), errors, variances


def test_the_evidence_is_that_of_the_likelihood() -> None:
    """Of normal errors with a normal prior, found by trying offsets one by one."""
    fit, errors, variances = noisy(0.9)  # no larger than expected
    offsets = np.linspace(-2, 2, 40_001)
    for number in range(3):
        left = errors[:, None] - offsets[None, :, None] * MATRIX.T[number]
        twice = -(left**2 / variances[:, None]).sum((0, 2)) - offsets**2 / 0.3**2
        assert fit.evidence(100)[number] == pytest.approx(twice.max() - twice[20_000], abs=1e-6)


@pytest.mark.parametrize("factor", [1.05, 4.0])
def test_noise_may_be_larger_than_expected(factor: float) -> None:
    """With the fault and without it, by the factor that fits best, found by trying. So noise is no evidence."""
    fit, *_ = noisy(factor)
    explained = fit.pull**2 / (fit.weight + 1 / 0.3**2)
    factors = np.linspace(1, 20, 100_001)
    for number in range(3):
        without, left = (
            (-100 * np.log(factors) - squares / factors).max()
            for squares in (fit.squares[0], fit.squares[0] - explained[number])
        )
        assert fit.evidence(100)[number] == pytest.approx(left - without, abs=1e-4)
    if factor == 4.0:
        assert (fit.evidence(100) < explained / 9).all()


def test_samples_add_up_one_by_one() -> None:
    """As they do together."""
    fit, errors, variances = noisy()
    one_by_one = Fit.of(errors[0], variances[0], MATRIX.T)
    for error, variance in zip(errors[1:], variances[1:], strict=True):
        one_by_one += Fit.of(error, variance, MATRIX.T)
    for name in ("pull", "weight", "squares"):
        np.testing.assert_allclose(getattr(one_by_one, name), getattr(fit, name))


def test_one_outlier_counts_as_five_deviations() -> None:
    """Up or down."""
    wild, usual = (Fit.of(np.array([size, -size]), np.array([4.0, 4.0]), MATRIX.T) for size in (1e6, 10.0))
    np.testing.assert_allclose(wild.pull, usual.pull)
    assert wild.squares == usual.squares == 50


def test_a_gain_is_an_offset_that_grows_with_x() -> None:
    """A number that is zero says nothing of its gain."""
    fit = Fit.of(np.ones(2), np.ones(2), MATRIX.T).both(np.array([2.0, 0.0, 1.0]))
    np.testing.assert_allclose(fit.pull, [[5.0, 0.0, 1.0], [2.5, -1.0, 1.0]])
    np.testing.assert_allclose(fit.weight, [[17.0, 0.0, 1.0], [4.25, 1.0, 1.0]])
    assert fit.squares.shape == (1, 1)  # the same for all


def test_between_two_counts_the_larger_figures_hold() -> None:
    """Those of the next one measured, or of the one before; and before the first, its own."""
    found = by_count((2, 4, 7), np.array([[5.0, 1.0], [3.0, 2.0], [4.0, 0.0]]))
    np.testing.assert_array_equal(found, [[5, 1], [5, 1], [5, 2], [3, 2], [4, 2], [4, 2], [4, 0]])
