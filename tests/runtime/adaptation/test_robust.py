"""Robust adaptation: samples that spoil an update are left out, a fifth of them at most."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel
from msr_runtime.adaptation.update_guard import Refusal


@pytest.mark.parametrize("bad", [0, 7])
def test_a_sample_that_spoils_the_update_is_left_out(
    limited: AdaptiveModel, linear: Any, clean: tuple[np.ndarray, np.ndarray], bad: int
) -> None:
    """The result names it, its losses are those of the others, and v is what the others alone give."""
    x, y = (part[:10] for part in clean)
    y = y.copy()
    y[bad, 1] += 5.0  # fifty scales, inside the bounds
    result = limited.adapt(x, y)
    assert (result.accepted, result.left_out) == (True, (bad,))
    others = np.arange(10) != bad
    v = linear.adapt(x[others], y[others], 3)
    np.testing.assert_allclose(limited.v, v, rtol=1e-4)
    assert result.loss_after == pytest.approx(linear.step(v, x[others], y[others])[1], rel=1e-4)
    assert result.missed <= 1


def test_clean_samples_are_all_kept(limited: AdaptiveModel, clean: tuple[np.ndarray, np.ndarray]) -> None:
    """Nothing is left out where no limit is missed."""
    result = limited.adapt(clean[0][:10], clean[1][:10])
    assert (result.accepted, result.left_out) == (True, ())


def test_of_many_samples_several_are_dropped(limited: AdaptiveModel, clean: tuple[np.ndarray, np.ndarray]) -> None:
    """Two of twenty."""
    x, y = clean[0], clean[1].copy()
    y[[4, 11], 1] += np.array([4.0, -6.0])
    result = limited.adapt(x, y)
    assert result.accepted
    assert set(result.left_out) >= {4, 11}
    assert len(result.left_out) <= 4


def test_more_than_a_fifth_is_never_left_out(
    limited: AdaptiveModel, linear: Any, clean: tuple[np.ndarray, np.ndarray]
) -> None:
    """Three bad ones of ten, or one of four: the update is refused, by its fit to all samples, and v0 acts on."""
    for shots, bad in ((10, [1, 4, 7]), (4, [2])):
        x, y = clean[0][:shots], clean[1][:shots].copy()
        y[bad, 1] += np.array([5.0, -7.0, 4.0])[: len(bad)]
        result = limited.adapt(x, y)
        assert (result.accepted, result.left_out) == (False, ())
        assert result.refusal in (Refusal.POOR_FIT, Refusal.TRUST_REGION)
        assert result.missed > 1
        np.testing.assert_array_equal(limited.v, linear.v0)


@pytest.mark.parametrize("path", ["limited", "without limits"])
def test_a_y_outside_its_bounds_is_never_learned_from(
    limited: AdaptiveModel, bundle_path: Path, linear: Any, clean: tuple[np.ndarray, np.ndarray], path: str
) -> None:
    """Whether a bundle has limits or not: y is left out of the support set and of the judges."""
    model = limited if path == "limited" else AdaptiveModel.load(bundle_path)
    x, y = (part[:10].copy() for part in clean)
    y[3, 0] = 12.0  # of 10 N
    held_out_y = y.copy()
    held_out_y[[0, 5]] = -900.0
    result = model.adapt(x, y, held_out=(x, held_out_y))
    assert (result.accepted, result.left_out, result.outside) == (True, (3,), {"y.force": 1})
    others = np.arange(10) != 3
    np.testing.assert_allclose(model.v, linear.adapt(x[others], y[others], 3), rtol=1e-4)
    assert result.held_out
    assert result.held_out.before < 100


def test_too_many_y_outside_their_bounds_are_refused(
    limited: AdaptiveModel, linear: Any, clean: tuple[np.ndarray, np.ndarray]
) -> None:
    """More than a fifth is another unit or a dead sensor, not an outlier. Nothing is computed."""
    x, y = (part[:10].copy() for part in clean)
    y[:3, 0] = 12.0
    result = limited.adapt(x, y)
    assert (result.accepted, result.refusal) == (False, Refusal.OUTSIDE)
    assert result.reason
    assert "3 of 10 support samples" in result.reason
    assert np.isnan(result.missed)
    np.testing.assert_array_equal(limited.v, linear.v0)
