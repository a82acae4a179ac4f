"""What a bundle's validation says about a number of samples: the limits of an update, and whether it is too few."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.repeats import distinct
from msr_runtime.adaptation.start import Start
from msr_runtime.bundle.manifest import Manifest, ShotFigures
from msr_runtime.bundle.spread import spread

_SMALLEST = 1e-6
"""Smallest limit. Below it lies what float32 rounds: closed-form steps may fit a single sample exactly."""
_MANY = 0.01
"""Share of clean tasks on which adapting may make the network worse before the samples count as too few."""
_FEWEST = 5
"""Fewer samples never count as enough."""
_KEPT = 256
"""Numbers of samples whose figures are kept."""


class Limits(NamedTuple):
    """The largest support loss and the largest move of v with which an update may act."""

    loss: float
    """On normalized outputs. Infinity switches this limit off."""
    move: float
    """`|v - v0| / |v0|`, or `|v|` where `v0` is zero. Infinity switches this limit off."""

    def missed_by(self, loss: float, move: float) -> float:
        """Return the larger of the two ratios to the limits: above 1, a limit is missed; infinity for NaN."""
        by_loss, by_move = loss / self.loss, move / self.move
        return math.inf if math.isnan(by_loss) or math.isnan(by_move) else max(by_loss, by_move)


NO_LIMITS = Limits(math.inf, math.inf)
"""Limits that nothing misses."""


class Measured:
    """What was measured at export on clean tasks, for any number of samples. Any thread may call it.

    Between two measured numbers of samples, each figure is interpolated over the logarithm of the number. Below the
    smallest and above the largest, those of the nearest hold: with more samples, a clean fit only becomes steadier.

    Args:
        manifest: The manifest of a bundle.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest, self.scale = manifest, np.asarray(manifest.normalization.input_scale)
        """The scale of x."""
        self._usual = manifest.shots
        self.known = manifest.validation is not None
        """Whether the bundle has a validation. Without one, nothing is limited and nothing is too few."""
        self.enough = max(_FEWEST, self._fewest_good() or self._usual)
        """The fewest samples that teach a task, five at least: fewer do not show that it changed."""
        # The same numbers of samples come again and again, and interpolating takes as long as a small inner step.
        self._at = lru_cache(_KEPT)(self._interpolate)

    def limits(self, x: NDArray, steps: int, start: Start) -> Limits:
        """Return the limits for one adaptation to inputs x `(shots, *x)` in raw units.

        If the inputs do not lie further apart than those of meta-training, the limits of such support sets hold, and
        else those of all support sets: samples from every direction fit less closely than samples from one.

        They were measured with the steps of meta-training from `v0`. More steps, or steps from an accepted v, move
        further and fit closer, so only the limit of the loss holds. Fewer steps move less and fit less, so only that of
        the move holds. What does not hold is infinity, and so is everything in a bundle without a validation.
        """
        manifest = self._manifest
        if not self.known:
            return NO_LIMITS
        found = self._at(len(x))
        usual = spread(self.scale, x) <= found.usual_spread
        loss, move = (found.usual_loss, found.usual_move) if usual else (found.largest_loss, found.largest_move)
        longer = steps > manifest.inner_steps or start == "accepted"
        return Limits(
            math.inf if steps < manifest.inner_steps and start == "v0" else max(loss, _SMALLEST),
            math.inf if longer else max(move, _SMALLEST),
        )

    def too_few(self, x: NDArray) -> str | None:
        """Return a sentence if adapting to so few samples made the network worse on many clean tasks, or else None.

        It is said of fewer samples than meta-training had, and only if it was measured. Samples with the same x count
        once: ten copies of one sample teach no more than this one.

        Args:
            x: The inputs that were learned from, `(shots, *x)` in raw units.
        """
        if not self.known or (shots := distinct(x, self._usual)) >= self._usual:
            return None
        validation, usual, found = self._manifest.validation, self._usual, self._at(shots)
        if validation is None or found.worse <= _MANY:
            return None
        enough = self._fewest_good(shots) or usual
        copies = f"the {len(x)} samples have only {shots} different x, and " if shots < len(x) else ""
        few = f"{shots} {'sample is' if shots == 1 else 'samples are'} few"
        return (
            f"{copies}{few}: adapting to so few made the network worse on "
            f"{found.worse:.0%} of {validation.tasks} clean tasks (median error {found.median_error:.2g}, on one task "
            f"in twenty above {found.high_error:.2g}, and {validation.error_at_v0:.2g} without adapting); give at "
            f"least {enough}{' different ones' if copies else ''}"
        )

    def _fewest_good(self, above: int = _FEWEST - 1) -> int | None:
        """The smallest measured number of samples above `above` that seldom made a network worse; None without one."""
        measured = self._manifest.validation.by_shots if self._manifest.validation else ()
        return next((each.shots for each in measured if each.shots > above and each.worse <= _MANY), None)

    def _interpolate(self, shots: int) -> ShotFigures:
        """Return all figures for a number of samples."""
        assert self._manifest.validation is not None
        known = self._manifest.validation.by_shots
        logarithms = [math.log(each.shots) for each in known]
        figures = {
            name: float(np.interp(math.log(shots), logarithms, [getattr(each, name) for each in known]))
            for name in ShotFigures.model_fields
            if name != "shots"
        }
        return ShotFigures.model_construct(None, shots=shots, **figures)  # the manifest's figures were checked
