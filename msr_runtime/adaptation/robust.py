"""Robust adaptation: an update that misses its limits is tried again without the samples that spoil it."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.measured import NO_LIMITS, Limits
from msr_runtime.adaptation.sessions import Adapted, Check, Sessions
from msr_runtime.inference.predictor import BoundPredictor
from msr_runtime.task import Array

SHARE = 5
"""At most one of so many samples may be left out."""
_CANDIDATES = 10
"""Samples that are left out by turns, to see which of them spoils the update: those that fit worst."""
_ROUNDS = 4
"""With many samples, several are dropped at once, so that there are at most so many rounds."""


class Fit(NamedTuple):
    """An update, and the samples that it learned from."""

    adapted: Adapted
    kept: NDArray[np.intp]
    """Indices of the samples that were learned from."""
    limits: Limits
    """The limits for these samples."""
    move: float
    """How far v moved, see `distance`. NaN if the weights are not finite."""

    @property
    def missed(self) -> float:
        """The larger ratio to the two limits. Infinity if the weights are not finite."""
        if self.adapted.predictor is None:
            return math.inf
        return self.limits.missed_by(self.adapted.loss_after, self.move)


@dataclass(frozen=True)
class Fitting:
    """Adapts to one support set, or to parts of it."""

    sessions: Sessions
    x: Array
    """`(shots, *x)` in raw units, checked."""
    y: NDArray
    """`(shots, *y)` in raw units, checked."""
    steps: int
    """Inner steps."""
    acting: BoundPredictor
    """The network that acts now."""
    begin: BoundPredictor | None
    """Where the inner loop begins; None for `v0`."""
    limits: Callable[[NDArray], Limits]
    """The limits for inputs `(shots, *x)`."""
    check: Check | None
    """Called before each inner step."""

    def to(self, kept: NDArray[np.intp]) -> Fit:
        """Adapt to the samples of these indices."""
        x, y = self.x, self.y
        if len(kept) < len(x):  # else an index would copy them
            x, y = x[kept], y[kept]
        adapted = self.sessions.adapt(x, y, self.steps, self.acting, self.begin, self.check)
        move = math.nan if adapted.predictor is None else self.sessions.moved(adapted.predictor)
        return Fit(adapted, kept, self.limits(x), move)

    def robustly(self, kept: NDArray[np.intp], most: int) -> Fit:
        """Adapt to the samples `kept`. While a limit is missed, drop the sample whose absence helps most.

        Which sample that is, is found by leaving out by turns those that fit worst. One bad sample of ten bends the
        network so much that good ones may fit worse than itself: the residual alone would name the wrong one.

        The only sample of a class is never dropped. Without it nothing would be known of the class.

        Args:
            kept: Indices of the samples to begin with.
            most: How many of them may be dropped. None is if there are no limits: nothing says what is a bad sample.

        Returns:
            The first fit that keeps its limits; if there is none, the fit to all samples.
        """
        whole = best = self.to(kept)
        if whole.missed <= 1 or whole.limits == NO_LIMITS:
            return whole
        at_once = -(-most // _ROUNDS)
        while not best.missed <= 1 and most > 0:
            candidates = self._worst(best)[:_CANDIDATES]
            if not candidates:  # every class has one sample
                break
            trials = (self.to(best.kept[best.kept != sample]) for sample in candidates)
            best = min(trials, key=lambda fit: fit.missed)
            drop = min(at_once, most)
            if drop > 1:  # the network without the worst sample shows the others that do not fit
                best = self.to(np.setdiff1d(best.kept, self._worst(best, together=True)[: drop - 1]))
            most -= drop
        return best if best.missed <= 1 else whole

    def _worst(self, fit: Fit, together: bool = False) -> list[int]:
        """The samples of a fit that may be left out, those with the largest loss first; one of them, or `together`."""
        network = fit.adapted.predictor or self.sessions.start
        losses = self.sessions.losses(self.x[fit.kept], self.y[fit.kept], network)
        order = fit.kept[np.argsort(-np.nan_to_num(losses, nan=np.inf), kind="stable")].tolist()
        if not self.sessions.support[1].classes:
            return order
        left, spare = Counter(self.y[fit.kept].tolist()), []
        for sample in order:
            if left[label := int(self.y[sample])] > 1:
                spare.append(sample)
                left[label] -= together
        return spare
