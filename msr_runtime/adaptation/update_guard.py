"""The guard of updates: adapted weights act only if nothing speaks against them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from numpy.typing import NDArray

from msr_runtime.adaptation.judges import HeldOut
from msr_runtime.adaptation.measured import Limits, Measured
from msr_runtime.adaptation.start import Start
from msr_runtime.errors import InputError

TRUST = 2.0
"""The trust region where none was measured. Gradient steps end within 0.5, Gauss-Newton steps within 1.5."""


class Refusal(StrEnum):
    """Why an update was refused."""

    NOT_FINITE = "not finite"
    """The adapted weights or a loss are NaN or infinite."""
    OUTSIDE = "y outside bounds"
    """More than a fifth of the support samples have a y outside the bounds of its field."""
    STUCK = "y stuck"
    """Every number of y is the same in all samples, although x differs."""
    WORSE = "worse on its own samples"
    """The adapted weights fit the support set worse than those where the inner loop began."""
    POOR_FIT = "poor fit"
    """The support loss after adapting is above its limit, and leaving samples out did not help."""
    TRUST_REGION = "trust region"
    """The adapted v is too far from v0, and leaving samples out did not help."""
    HELD_OUT = "no better on held-out samples"
    """The loss on held-out samples would rise: the weights that act are better. This is no fault."""


class Objection(NamedTuple):
    """Why an update must not act."""

    refusal: Refusal
    """The reason as a name to count by."""
    reason: str
    """The reason as a sentence, with the value seen and the value wanted."""


@dataclass(frozen=True)
class UpdateGuard:
    """Accepts an update that is finite, fits its samples, is near `v0`, and is no worse on held-out samples.

    Without arguments, it takes the limits that were measured at the export on clean tasks, for as many samples as the
    update has (see `Manifest.validation`). It has no state, so several models and threads may share one guard.

    Example:
        >>> import numpy as np
        >>> from msr_runtime import AdaptiveModel, UpdateGuard
        >>> x = np.random.default_rng(0).uniform(0, 1, (10, 18))
        >>> strict = UpdateGuard(trust=1e-6)  # so strict that it refuses every update
        >>> result = AdaptiveModel.load(bundle).adapt(x, 0.1 * x[:, :2], guard=strict)
        >>> result.accepted, str(result.refusal)
        (False, 'trust region')
    """

    trust: float | None = None
    """Radius of the trust region: the largest accepted distance from `v0`, in norms of `v0`. `math.inf` switches this
    check off. None takes the measured one, or 2 where none was measured.

    The distance is taken over all filter parameters together. One bound per tensor would not work: the bias of the last
    layer often begins near zero, and then moves by twenty times its own norm even on easy tasks."""
    loss: float | None = None
    """The largest accepted support loss after adapting, on normalized outputs. `math.inf` switches this check off. None
    takes the measured one, or no limit where none was measured."""
    constant_y: bool = False
    """Whether y may be the same in all samples of a support set although their x differ. If not, such an update is
    refused: it is what a stuck sensor gives. Set it where one y for all is meant, such as a saturated command."""
    hold_v0: bool = False
    """Whether `OnlineAdapter` acts with `v0` while adapting hurts: while the adapted network predicts new samples worse
    than `v0` does, by more than chance, see `OnlineReport.helping`. It goes on adapting, and acts with what it has
    learned when that is better again. `AdaptiveModel.adapt` cannot know whether adapting hurts, and ignores this."""

    def __post_init__(self) -> None:
        for name, value, what in (("trust", self.trust, "distance"), ("loss", self.loss, "loss")):
            if value is not None and not value > 0:
                raise InputError(f"{name} is {value}, but a positive {what} is wanted; math.inf switches it off")

    def limits(self, measured: Measured, steps: int, start: Start, scale: float) -> Callable[[NDArray], Limits]:
        """Return the function from the inputs of a support set, `(shots, *x)` in raw units, to its limits.

        Args:
            measured: What was measured at the export of the model's bundle.
            steps: Inner steps of the update.
            start: Where it begins.
            scale: The norm of `v0`.

        Raises:
            InputError: If `v0` is zero and the trust region has a size: a relative distance from zero does not exist.
        """
        loss, trust = self.loss, self.trust
        if trust is None and not measured.known:
            trust = TRUST
        if trust is not None and trust < math.inf and not scale:
            raise InputError(
                "v0 is zero, so no distance is relative to it and the trust region has no size; give "
                "UpdateGuard(trust=inf)"
            )

        def at(x: NDArray) -> Limits:
            if loss is not None and trust is not None:
                return Limits(loss, trust)
            usual = measured.limits(x, steps, start)
            # Where the measured move does not hold, the wide trust region does.
            move = TRUST if scale and usual.move == math.inf else usual.move
            return Limits(usual.loss if loss is None else loss, move if trust is None else trust)

        return at

    def judge(
        self, limits: Limits, move: float, losses: tuple[float, float], held_out: HeldOut | None = None
    ) -> Objection | None:
        """Return why the adapted weights must not act, or None if they may.

        Args:
            limits: What `limits` gave for the samples.
            move: How far v moved from `v0`, in norms of `v0`.
            losses: The support loss before and after the adaptation.
            held_out: The loss on held-out samples; None if there are no such samples.
        """
        before, after = losses
        if not (math.isfinite(move) and math.isfinite(before) and math.isfinite(after)):
            return NOT_FINITE
        if held_out and not math.isfinite(held_out.after):
            return NOT_FINITE
        if after > before:
            return Objection(
                Refusal.WORSE,
                f"the loss on the support set itself rises from {before:.4g} to {after:.4g}; likely cause: a sensor "
                "that is stuck or far off, so that the inner steps are too long",
            )
        if not after <= limits.loss:
            return Objection(
                Refusal.POOR_FIT,
                f"the support loss after adapting is {after:.4g}, {after / limits.loss:.3g} times the limit of "
                f"{limits.loss:.4g}; likely cause: wrong samples, more than a fifth of them, or a change that no task "
                "in training had; if the sensors are noisier than in training, train with noise (--settings.noise) or "
                "give UpdateGuard(loss=...)",
            )
        if not move <= limits.move:
            return Objection(
                Refusal.TRUST_REGION,
                f"the adapted v is {move:.3g} norms of v0 away from v0, {move / limits.move:.3g} times the limit of "
                f"{limits.move:.4g}; likely cause: samples unlike those of every task in training; the limit is "
                "UpdateGuard(trust=...)",
            )
        if held_out and held_out.worse:
            return Objection(
                Refusal.HELD_OUT,
                f"the loss on held-out samples would rise from {held_out.before:.4g} to {held_out.after:.4g}, by more "
                "than their noise; the weights that act fit them better",
            )
        return None


NOT_FINITE = Objection(
    Refusal.NOT_FINITE,
    "the adapted weights or their loss are not finite; likely cause: samples so large that the inner steps overflow",
)
"""The objection to an update that overflowed."""


USUAL_GUARD = UpdateGuard()
"""The guard of bundles whose limits were measured."""
UNMEASURED_GUARD = UpdateGuard(trust=math.inf, loss=math.inf)
"""The guard of other bundles."""
UNLIMITED = UpdateGuard(trust=math.inf, loss=math.inf, constant_y=True)
"""A guard without limits, which takes a constant y too."""


def too_many_outside(outside: int, samples: int) -> Objection:
    """The objection to a support set with too many samples that cannot be right."""
    return Objection(
        Refusal.OUTSIDE,
        f"{outside} of {samples} support samples have a y outside the bounds of its field, but no more than a fifth "
        "may; likely cause: another unit, a stuck sensor, or bounds in the task family that are too narrow",
    )


def stuck_y(seen: str) -> Objection:
    """The objection to a y that does not change while x does; `seen` says which fields, as `repeats.stuck` does."""
    return Objection(
        Refusal.STUCK,
        f"{seen}; likely cause: a sensor that is stuck, or a robot that does not act; look at what gives y and leave "
        "these samples out; if one y for all of them is meant, give UpdateGuard(constant_y=True)",
    )
