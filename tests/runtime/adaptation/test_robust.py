"""Robust adaptation: samples that spoil an update are left out, a fifth of them at most."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel
from msr_runtime.adaptation.update_guard import Refusal


def draw(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def task(linear: Any) -> tuple[np.ndarray, np.ndarray]:
    """Twenty clean samples of a robot whose v is v0 plus 0.3."""
    x = draw(1, 200, 3)
    y = linear.predict(linear.v0 + np.float32(0.3), x)
    inside = np.flatnonzero((np.abs(y) < 10).all(1))[:20]  # of their bounds
    return x[inside], y[inside]


@pytest.fixture
def limited(write: Callable[..., Path], linear: Any, task: tuple[np.ndarray, np.ndarray]) -> AdaptiveModel:
    """A model whose limits are one and a half times what clean support sets of this task reach."""
    x, y = task
    losses, moves = [], []
    for first in range(0, 20, 5):
        v = linear.adapt(x[first : first + 10], y[first : first + 10], 3)
        losses.append(linear.step(v, x[first : first + 10], y[first : first + 10])[1])
        moves.append(float(np.linalg.norm(v - linear.v0) / np.linalg.norm(linear.v0)))
    loss, move = 1.5 * max(losses), 1.5 * max(moves)
    figures = {"shots": 10, "usual_spread": 100.0, "usual_loss": loss, "usual_move": move}
    figures |= {
        "largest_loss": 2 * loss,
        "largest_move": 2 * move,
        "median_error": 0.1,
        "high_error": 0.2,
        "worse": 0.0,
    }
    return AdaptiveModel.load(write(validation={"tasks": 4, "error_at_v0": 1.0, "by_shots": [figures]}))


@pytest.mark.parametrize("bad", [0, 7])
def test_a_sample_that_spoils_the_update_is_left_out(
    limited: AdaptiveModel, linear: Any, task: tuple[np.ndarray, np.ndarray], bad: int
) -> None:
    """The result names it, its losses are those of the others, and v is what the others alone give."""
    x, y = (part[:10] for part in task)
    y = y.copy()
    y[bad, 1] += 5.0  # fifty scales, inside the bounds
    result = limited.adapt(x, y)
    assert (result.accepted, result.left_out) == (True, (bad,))
    others = np.arange(10) != bad
    v = linear.adapt(x[others], y[others], 3)
    np.testing.assert_allclose(limited.v, v, rtol=1e-4)
    assert result.loss_after == pytest.approx(linear.step(v, x[others], y[others])[1], rel=1e-4)
    assert result.missed <= 1


def test_clean_samples_are_all_kept(limited: AdaptiveModel, task: tuple[np.ndarray, np.ndarray]) -> None:
    """Nothing is left out where no limit is missed."""
    result = limited.adapt(task[0][:10], task[1][:10])
    assert (result.accepted, result.left_out) == (True, ())


def test_of_many_samples_several_are_dropped(limited: AdaptiveModel, task: tuple[np.ndarray, np.ndarray]) -> None:
    """Two of twenty."""
    x, y = task[0], task[1].copy()
    y[[4, 11], 1] += np.array([4.0, -6.0])
    result = limited.adapt(x, y)
    assert result.accepted
    assert set(result.left_out) >= {4, 11}
    assert len(result.left_out) <= 4


def test_more_than_a_fifth_is_never_left_out(
    limited: AdaptiveModel, linear: Any, task: tuple[np.ndarray, np.ndarray]
) -> None:
    """Three bad ones of ten, or one of four: the update is refused, by its fit to all samples, and v0 acts on."""
    for shots, bad in ((10, [1, 4, 7]), (4, [2])):
        x, y = task[0][:shots], task[1][:shots].copy()
        y[bad, 1] += np.array([5.0, -7.0, 4.0])[: len(bad)]
        result = limited.adapt(x, y)
        assert (result.accepted, result.left_out) == (False, ())
        assert result.refusal in (Refusal.POOR_FIT, Refusal.TRUST_REGION)
        assert result.missed > 1
        np.testing.assert_array_equal(limited.v, linear.v0)


@pytest.mark.parametrize("path", ["limited", "without limits"])
def test_a_y_outside_its_bounds_is_never_learned_from(
    limited: AdaptiveModel, bundle_path: Path, linear: Any, task: tuple[np.ndarray, np.ndarray], path: str
) -> None:
    """Whether a bundle has limits or not: y is left out of the support set and of the judges."""
    model = limited if path == "limited" else AdaptiveModel.load(bundle_path)
    x, y = (part[:10].copy() for part in task)
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
    limited: AdaptiveModel, linear: Any, task: tuple[np.ndarray, np.ndarray]
) -> None:
    """More than a fifth is another unit or a dead sensor, not an outlier. Nothing is computed."""
    x, y = (part[:10].copy() for part in task)
    y[:3, 0] = 12.0
    result = limited.adapt(x, y)
    assert (result.accepted, result.refusal) == (False, Refusal.OUTSIDE)
    assert result.reason
    assert "3 of 10 support samples" in result.reason
    assert np.isnan(result.missed)
    np.testing.assert_array_equal(limited.v, linear.v0)
