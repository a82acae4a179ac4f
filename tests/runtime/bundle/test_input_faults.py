"""Evidence that one number of x is at fault: on a linear robot, where it can be said by hand."""

import numpy as np
import pytest

from msr_runtime.bundle.input_faults import STEP, Fit, slopes

MATRIX = np.array([[2.0, 0.0, 1.0], [0.5, -1.0, 0.0]], np.float32)


def predict(x: np.ndarray) -> np.ndarray:
    """Two numbers of y from three of x."""
    return x @ MATRIX.T


def test_slopes_are_those_of_the_network_per_scale() -> None:
    """Of a linear network, whatever the step."""
    x, scale = np.array([1.0, -2.0, 0.5], np.float32), np.array([1.0, 10.0, 0.1])
    np.testing.assert_allclose(slopes(predict, x, scale), MATRIX.T * scale[:, None], rtol=1e-3, atol=1e-4)
    assert STEP < 1


def test_the_evidence_is_that_of_the_likelihood() -> None:
    """Of normal errors with a normal prior, found by trying offsets one by one."""
    rng = np.random.default_rng(0)
    errors, variances = rng.normal(size=(5, 2)), rng.uniform(0.5, 2.0, (5, 2))
    fit = Fit.of(errors[0], variances[0], MATRIX.T)
    for error, variance in zip(errors[1:], variances[1:], strict=True):
        fit += Fit.of(error, variance, MATRIX.T)
    offsets = np.linspace(-2, 2, 40_001)
    for number in range(3):
        left = errors[:, None] - offsets[None, :, None] * MATRIX.T[number]
        twice = -(left**2 / variances[:, None]).sum((0, 2)) - offsets**2 / 0.3**2
        assert fit.evidence()[number] == pytest.approx(twice.max() - twice[20_000], abs=1e-6)


def test_one_outlier_counts_as_five_deviations() -> None:
    """Up or down."""
    wild, usual = (Fit.of(np.array([size, -size]), np.array([4.0, 4.0]), MATRIX.T) for size in (1e6, 10.0))
    np.testing.assert_allclose(wild.pull, usual.pull)


def test_a_gain_is_an_offset_that_grows_with_x() -> None:
    """A number that is zero says nothing of its gain."""
    fit = Fit.of(np.ones(2), np.ones(2), MATRIX.T).both(np.array([2.0, 0.0, 1.0]))
    np.testing.assert_allclose(fit.pull, [[5.0, 0.0, 1.0], [2.5, -1.0, 1.0]])
    np.testing.assert_allclose(fit.weight, [[17.0, 0.0, 1.0], [4.25, 1.0, 1.0]])
