"""What a bundle's validation says about a number of samples: the limits of an update, and whether it is too few."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.start import Start
from msr_runtime.bundle.manifest import Manifest, Validation
from msr_runtime.bundle.spread import spread

_SMALLEST = 1e-6
"""Smallest limit. Below it lies what float32 rounds: closed-form steps may fit a single sample exactly."""
_MANY = 0.01
"""Share of clean tasks on which adapting may make the network worse before the samples count as too few."""


class Limits(NamedTuple):
    """The largest support loss and the largest move of v with which an update may act."""

    loss: float
    """On normalized outputs. Infinity switches this limit off."""
    move: float
    """`|v - v0| / |v0|`, or `|v|` where `v0` is zero. Infinity switches this limit off."""

    def missed_by(self, loss: float, move: float) -> float:
        """Return the larger of the two ratios to the limits: above 1, a limit is missed; infinity for NaN."""
        ratio = max(loss / self.loss, move / self.move, key=lambda each: math.inf if math.isnan(each) else each)
        return math.inf if math.isnan(ratio) else ratio


NO_LIMITS = Limits(math.inf, math.inf)
"""Limits that nothing misses."""


def measured_limits(manifest: Manifest, x: NDArray, steps: int, start: Start) -> Limits:
    """Return the limits that were measured at export, for one adaptation to inputs x `(shots, *x)` in raw units.

    If the inputs do not lie further apart than those of meta-training, the limits of such support sets hold, and else
    those of all support sets: what looks everywhere fits less closely.

    Between two measured numbers of samples, the limits are interpolated over the logarithm of the number. Below the
    smallest and above the largest, those of the nearest hold: with more samples, a clean fit only becomes steadier.

    They were measured with the steps of meta-training from `v0`. More steps, or steps from an accepted v, move further
    and fit closer, so only the limit of the loss holds. Fewer steps move less and fit less, so only that of the move
    holds. What does not hold is infinity, and so is everything in a bundle without a validation.
    """
    if manifest.validation is None:
        return NO_LIMITS
    found, shots = manifest.validation, len(x)
    usual = spread(manifest.normalization, x) <= _at(found, shots, "usual_spread")
    loss, move = (_at(found, shots, f"{'usual' if usual else 'largest'}_{name}") for name in ("loss", "move"))
    longer = steps > manifest.inner_steps or start == "accepted"
    return Limits(
        math.inf if steps < manifest.inner_steps and start == "v0" else max(loss, _SMALLEST),
        math.inf if longer else max(move, _SMALLEST),
    )


def too_few(manifest: Manifest, shots: int) -> str | None:
    """Return a sentence if adapting to so few samples made the network worse on many clean tasks, or else None.

    It is said of fewer samples than meta-training had, and only if it was measured.
    """
    found = manifest.validation
    if found is None or shots >= manifest.shots or (worse := _at(found, shots, "worse")) <= _MANY:
        return None
    enough = next((each.shots for each in found.by_shots if each.shots > shots and each.worse <= _MANY), manifest.shots)
    median, high = (_at(found, shots, name) for name in ("median_error", "high_error"))
    return (
        f"{shots} {'sample is' if shots == 1 else 'samples are'} few: adapting to so few made the network worse on "
        f"{worse:.0%} of {found.tasks} clean tasks (median error {median:.2g}, on one task in twenty above {high:.2g}, "
        f"and {found.error_at_v0:.2g} without adapting); give at least {enough}"
    )


def _at(validation: Validation, shots: int, name: str) -> float:
    """Interpolate one figure over the logarithm of the number of samples."""
    known = validation.by_shots
    values = [getattr(each, name) for each in known]
    return float(np.interp(math.log(shots), [math.log(each.shots) for each in known], values))
