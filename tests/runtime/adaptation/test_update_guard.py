"""The update guard: which updates it refuses, for which named reason, and that a refused one never acts."""

import math
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, InputError, UpdateGuard
from msr_runtime.adaptation.update_guard import HeldOut, Refusal

V0, V = np.array([[3.0, 4.0]], np.float32), np.array([[3.0, 9.0]], np.float32)


@pytest.mark.parametrize(
    ("trust", "losses", "held_out", "refusal"),
    [
        (1.0, (1.0, 0.5), None, None),
        (1.0, (1.0, 2.0), None, None),
        (0.99, (1.0, 0.5), None, Refusal.TRUST_REGION),
        (math.inf, (1.0, 0.5), None, None),
        (1.0, (1.0, math.nan), None, Refusal.NOT_FINITE),
        (1.0, (math.inf, 1.0), None, Refusal.NOT_FINITE),
        (1.0, (1.0, 0.5), HeldOut(1.0, 1.0), None),
        (1.0, (1.0, 0.5), HeldOut(1.0, 1.01), Refusal.HELD_OUT),
        (1.0, (1.0, 0.5), HeldOut(1.0, math.inf), Refusal.NOT_FINITE),
        (1.0, (1.0, 0.5), HeldOut(math.nan, 1.0), None),
    ],
)
def test_an_update_is_refused_for_a_named_reason(
    trust: float, losses: tuple[float, float], held_out: HeldOut | None, refusal: Refusal | None
) -> None:
    """V is exactly one norm of v0 away from v0: on the edge of a trust region of 1 it passes."""
    objection = UpdateGuard(trust).judge(V0, V, losses, held_out)
    assert (objection.refusal if objection else None) == refusal


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_filter_parameters_that_are_not_finite_are_refused(bad: float) -> None:
    """Also where `trust` is infinite."""
    objection = UpdateGuard(math.inf).judge(V0, np.array([[bad, 1.0]], np.float32), (1.0, 1.0))
    assert objection is not None
    assert objection.refusal is Refusal.NOT_FINITE


def test_no_distance_is_relative_to_zero() -> None:
    """A zero v0 raises; the option that the error names works."""
    with pytest.raises(InputError, match="trust=inf"):
        UpdateGuard().judge(0 * V0, V, (1.0, 1.0))
    assert UpdateGuard(math.inf).judge(0 * V0, V, (1.0, 1.0)) is None


@pytest.mark.parametrize("trust", [0.0, -1.0, math.nan])
def test_a_trust_region_has_a_size(trust: float) -> None:
    """Zero, negative and NaN are refused."""
    with pytest.raises(InputError, match="trust is"):
        UpdateGuard(trust)


def test_a_refused_update_leaves_the_old_weights_acting(bundle_path: Any, linear: Any) -> None:
    """The result gives the reason and the losses; without the guard the same update acts."""
    model, rng = AdaptiveModel.load(bundle_path), np.random.default_rng(0)
    x = rng.standard_normal((6, 3)).astype(np.float32)
    y, other = linear.predict(linear.v0 + 0.5, x), linear.predict(linear.v0 - 5, x)
    held_out = (x, linear.predict(linear.v0, x))
    result = model.adapt(x, y, held_out=held_out, guard=UpdateGuard())
    assert not result.accepted
    assert result.refusal is Refusal.HELD_OUT
    assert result.reason
    assert "would rise" in result.reason
    assert result.held_out
    assert result.held_out.before == pytest.approx(0, abs=1e-9)
    assert result.held_out.after == pytest.approx(linear.step(linear.adapt(x, y, 3), *held_out)[1], rel=1e-4)
    far = model.adapt(x, other, guard=UpdateGuard(trust=1e-3))
    assert far.refusal is Refusal.TRUST_REGION
    assert far.reason
    assert "but trust allows 0.001" in far.reason
    np.testing.assert_allclose(model.v, linear.v0, rtol=1e-6)
    assert model.adapt(x, y, held_out=held_out).accepted
    np.testing.assert_allclose(model.v, linear.adapt(x, y, 3), rtol=1e-4)
