"""The update guard: which updates it refuses, for which named reason, and that a refused one never acts."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, InputError, UpdateGuard
from msr_runtime.adaptation import measured
from msr_runtime.adaptation.judges import HeldOut
from msr_runtime.adaptation.measured import NO_LIMITS, Limits, Measured
from msr_runtime.adaptation.update_guard import Refusal
from msr_runtime.bundle.manifest import Validation
from msr_runtime.bundle.spread import spread

LIMITS = Limits(loss=0.5, move=1.0)
FOUR = np.zeros((4, 3))
"""The inputs of four samples."""
BETTER, WORSE = HeldOut(1.0, 0.9, worse=False), HeldOut(1.0, 1.2, worse=True)


@pytest.mark.parametrize(
    ("limits", "move", "losses", "held_out", "refusal"),
    [
        (LIMITS, 1.0, (1.0, 0.5), None, None),
        (LIMITS, 1.01, (1.0, 0.5), None, Refusal.TRUST_REGION),
        (LIMITS, 1.0, (1.0, 0.51), None, Refusal.POOR_FIT),
        (LIMITS, 0.1, (0.1, 0.2), None, Refusal.WORSE),
        (LIMITS, 0.0, (0.1, 0.1), None, None),
        (NO_LIMITS, 99.0, (1.0, 0.9), None, None),
        (NO_LIMITS, 99.0, (4151.0, 8444.0), None, Refusal.WORSE),
        (LIMITS, 1.0, (1.0, math.nan), None, Refusal.NOT_FINITE),
        (LIMITS, 1.0, (math.inf, 0.1), None, Refusal.NOT_FINITE),
        (NO_LIMITS, math.inf, (1.0, 0.1), None, Refusal.NOT_FINITE),
        (LIMITS, 1.0, (1.0, 0.5), BETTER, None),
        (LIMITS, 1.0, (1.0, 0.5), WORSE, Refusal.HELD_OUT),
        (LIMITS, 1.0, (1.0, 0.5), HeldOut(1.0, math.inf, worse=False), Refusal.NOT_FINITE),
        (LIMITS, 1.0, (1.0, 0.5), HeldOut(math.nan, 1.0, worse=False), None),
    ],
)
def test_an_update_is_refused_for_a_named_reason(
    limits: Limits, move: float, losses: tuple[float, float], held_out: HeldOut | None, refusal: Refusal | None
) -> None:
    """On the edge of a limit it passes."""
    objection = UpdateGuard().judge(limits, move, losses, held_out)
    assert (objection.refusal if objection else None) == refusal


@pytest.mark.parametrize(
    ("move", "loss", "sentence"), [(0.1, 2.0, "4 times the limit of 0.5"), (3.0, 0.1, "3 times the limit of 1")]
)
def test_the_reason_says_by_how_much(move: float, loss: float, sentence: str) -> None:
    """A missed limit is given, and the ratio to it."""
    objection = UpdateGuard().judge(LIMITS, move, (9.0, loss))
    assert objection
    assert sentence in objection.reason


@pytest.mark.parametrize("name", ["trust", "loss"])
@pytest.mark.parametrize("size", [0.0, -1.0, math.nan])
def test_a_limit_has_a_size(name: str, size: float) -> None:
    """Zero, negative and NaN are refused."""
    with pytest.raises(InputError, match=f"{name} is"):
        UpdateGuard(trust=size) if name == "trust" else UpdateGuard(loss=size)


class TestLimits:
    """The limits that hold for an update."""

    MEASURED = Validation.model_validate(
        {
            "tasks": 200,
            "error_at_v0": 1.0,
            "by_shots": [
                {"shots": 1, "usual_spread": 0.0, "usual_loss": 0.4, "usual_move": 0.8, "largest_loss": 0.5}
                | {"largest_move": 0.9, "median_error": 0.7, "high_error": 9.0, "worse": 0.3},
                {"shots": 4, "usual_spread": 5.0, "usual_loss": 0.2, "usual_move": 0.6, "largest_loss": 0.3}
                | {"largest_move": 0.7, "median_error": 0.1, "high_error": 0.3, "worse": 0.0},
            ],
        }
    )

    @pytest.fixture
    def found(self, linear: Any) -> Measured:
        """The limits in the reference's manifest, which wants three steps."""
        return Measured(linear.manifest().model_copy(update={"validation": self.MEASURED}))

    def test_they_are_those_of_the_number_of_samples(self, found: Measured) -> None:
        """Between two measured numbers they are interpolated over the logarithm; outside, the nearest hold."""
        limits = UpdateGuard().limits(found, 3, "v0", 1.0)
        for shots, wanted in ((1, (0.4, 0.8)), (2, (0.3, 0.7)), (4, (0.2, 0.6)), (99, (0.2, 0.6))):
            assert limits(np.zeros((shots, 3))) == pytest.approx(wanted)

    def test_samples_that_lie_further_apart_have_limits_of_their_own(self, found: Measured) -> None:
        """What looks everywhere fits less closely. One number spreads by its variance, a third of it over all three."""
        limits = UpdateGuard().limits(found, 3, "v0", 1.0)
        x = np.zeros((4, 3))
        x[:, 0] = [-1, 1, -1, 1]
        assert limits(7.7 * x) == pytest.approx((0.2, 0.6))  # of a scale of 2: a spread of 4.94
        assert limits(7.8 * x) == pytest.approx((0.3, 0.7))  # and of 5.07

    def test_what_does_not_hold_is_left_out(self, found: Measured) -> None:
        """More steps and another start move further: the trust region of 2 holds. Fewer steps fit less."""
        assert UpdateGuard().limits(found, 4, "v0", 1.0)(FOUR) == (0.2, 2.0)
        assert UpdateGuard().limits(found, 3, "accepted", 1.0)(FOUR) == (0.2, 2.0)
        assert UpdateGuard().limits(found, 2, "v0", 1.0)(FOUR) == (math.inf, 0.6)
        assert UpdateGuard().limits(found, 4, "v0", 0.0)(FOUR) == (0.2, math.inf)

    def test_the_callers_own_come_first(self, found: Measured) -> None:
        """Each alone, and infinity switches it off."""
        assert UpdateGuard(trust=0.1).limits(found, 3, "v0", 1.0)(FOUR) == (0.2, 0.1)
        assert UpdateGuard(loss=7.0).limits(found, 3, "v0", 1.0)(FOUR) == (7.0, 0.6)
        assert UpdateGuard(math.inf, math.inf).limits(found, 3, "v0", 1.0)(FOUR) == NO_LIMITS

    def test_without_a_measurement_there_is_the_wide_trust_region(self, linear: Any) -> None:
        """The bundles of format version 3 and older."""
        assert UpdateGuard().limits(Measured(linear.manifest()), 3, "v0", 1.0)(FOUR) == (math.inf, 2.0)

    def test_no_distance_is_relative_to_zero(self, linear: Any) -> None:
        """A zero v0 raises; the option that the error names works."""
        with pytest.raises(InputError, match="trust=inf"):
            UpdateGuard().limits(Measured(linear.manifest()), 3, "v0", 0.0)
        assert UpdateGuard(math.inf).limits(Measured(linear.manifest()), 3, "v0", 0.0)(FOUR) == NO_LIMITS

    def test_the_inputs_of_an_update_are_looked_at_once(
        self, limited: AdaptiveModel, clean: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And not at all where the caller gives both limits."""
        looks: list[int] = []
        monkeypatch.setattr(measured, "spread", lambda scale, x: looks.append(len(x)) or spread(scale, x))
        x, y = (part[:10] for part in clean)
        limited.adapt(x, y)
        assert looks == [10]
        limited.adapt(x, y, guard=UpdateGuard(trust=2.0, loss=1.0))
        assert looks == [10]

    def test_the_spread_does_not_depend_on_the_center(self) -> None:
        """It is the variance in scales, averaged over the numbers; also of an image, with a scale per channel."""
        x = np.random.default_rng(0).standard_normal((50, 2, 3, 4)).astype(np.float32) * 3
        scale = np.array([1.0, 4.0]).reshape(2, 1, 1)
        assert spread(scale, x + 1000) == pytest.approx((x / scale).var(0).mean(), rel=1e-5)
        assert spread(scale, x[:1]) == 0


def test_a_refused_update_leaves_the_old_weights_acting(bundle_path: Path, linear: Any) -> None:
    """The result gives the reason and the losses; without these judges the same update acts."""
    model, rng = AdaptiveModel.load(bundle_path), np.random.default_rng(0)
    x = 0.3 * rng.standard_normal((12, 3)).astype(np.float32)
    y = linear.predict(linear.v0 + 0.5, x)
    held_out = (x, linear.predict(linear.v0, x))
    result = model.adapt(x, y, held_out=held_out)
    assert not result.accepted
    assert result.refusal is Refusal.HELD_OUT
    assert result.reason
    assert "would rise" in result.reason
    assert result.held_out
    assert result.held_out.before == pytest.approx(0, abs=1e-9)
    far = model.adapt(x, y, guard=UpdateGuard(trust=1e-3))
    assert far.refusal is Refusal.TRUST_REGION
    assert far.missed == pytest.approx(far.move / 1e-3)
    np.testing.assert_allclose(model.v, linear.v0, rtol=1e-6)
    assert model.adapt(x, y).accepted
    np.testing.assert_allclose(model.v, linear.adapt(x, y, 3), rtol=1e-4)


def test_an_update_that_is_worse_on_its_own_samples_is_refused(bundle_path: Path, linear: Any) -> None:
    """Even where no limit was measured: a sensor stuck at 999 makes the steps too long."""
    model = AdaptiveModel.load(bundle_path)
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    x[:, 2] = 999
    result = model.adapt(x, np.eye(6, 2), 1)
    assert (result.accepted, result.refusal) == (False, Refusal.WORSE)
    assert result.loss_after > result.loss_before
    np.testing.assert_allclose(model.v, linear.v0, rtol=1e-6)


def test_a_bundle_without_limits_sets_none(bundle_path: Path) -> None:
    """Its updates act as before, however far they move and however badly they fit."""
    rng = np.random.default_rng(0)
    result = AdaptiveModel.load(bundle_path).adapt(rng.standard_normal((8, 3)), rng.uniform(-9, 9, (8, 2)))
    assert (result.accepted, result.limits, result.missed) == (True, NO_LIMITS, 0.0)
    assert result.few_samples is None


def test_a_bundle_with_limits_holds_to_them(write: Callable[..., Path]) -> None:
    """`adapt` without a guard takes them; the result says by how much they were missed, and that one sample is few."""
    model = AdaptiveModel.load(write(validation=TestLimits.MEASURED.model_dump()))
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 3)), rng.uniform(-9, 9, (4, 2))
    result = model.adapt(x, y)
    assert (result.accepted, result.refusal, result.limits) == (False, Refusal.POOR_FIT, (0.2, 0.6))
    assert result.missed == pytest.approx(result.loss_after / 0.2)
    assert result.few_samples is None
    few = model.adapt(x[:1], y[:1]).few_samples
    assert few
    assert "1 sample is few" in few
    assert "30% of 200 clean tasks" in few
    assert "give at least 4" in few
