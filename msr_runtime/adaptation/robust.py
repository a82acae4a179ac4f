"""Robust adaptation: an update that misses its limits is tried again without the samples that spoil it.

These are a few outliers, or all samples of the task before, where samples in the order of time show that it changed.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.measured import NO_LIMITS, Limits
from msr_runtime.adaptation.repeats import alike
from msr_runtime.adaptation.sessions import Adapted, Check, Sessions
from msr_runtime.inference.predictor import BoundPredictor
from msr_runtime.task import Array

SHARE = 5
"""At most one in `SHARE` samples may be left out."""
_FEW = 2
"""If at most this number may be dropped, each of the worst samples is left out once, and the best choice is kept."""
_CANDIDATES = 10
"""How many of the samples that fit worst are left out in turn."""
_LATEST = 3
"""A change of the task counts only if samples of the new task predict this number of later ones."""
_TRIMS = 2
"""If more than `_FEW` may be dropped: how many times the worst share is dropped, and named again."""


class Fit(NamedTuple):
    """An update, and the samples that it learned from."""

    adapted: Adapted
    kept: NDArray[np.intp]
    """Indices of the samples that were learned from."""
    limits: Limits
    """The limits for these samples."""
    move: float
    """How far v moved, see `distance`. NaN if the weights are not finite."""
    begins: int | None = None
    """The index of the first sample of the task, if the task changed among the samples."""

    @property
    def missed(self) -> float:
        """The larger ratio to the two limits. Infinity if the weights are not finite."""
        if self.adapted.predictor is None:
            return math.inf
        return self.limits.missed_by(self.adapted.loss_after, self.move)


class Fitting(NamedTuple):
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

    def robustly(self, kept: NDArray[np.intp], most: int, *, in_order: bool = False) -> Fit:
        """Adapt to the samples `kept`. If a limit is missed, leave out what spoils the update.

        The number of adaptations is bounded, whatever the samples are: 21 to fewer than 15 samples each, or 4 to more;
        and 8 more where the task may have changed.

        The only sample of a class is never dropped. Without it nothing would be known of the class.

        Args:
            kept: Indices of the samples to begin with.
            most: How many of them may be dropped. None is if there are no limits: nothing says what is a bad sample.
            in_order: Whether the samples are in the order of time, so that a change of the task can show.

        Returns:
            The first fit that keeps its limits; if there is none, the fit to all samples.
        """
        whole = self.to(kept)
        if whole.missed <= 1 or whole.limits == NO_LIMITS:
            return whole
        changed = self._changed(whole) if in_order else None
        if changed or not most:
            return changed or whole
        best = self._by_turns(whole, most) if most <= _FEW else self._trimmed(whole, most)
        return best if best.missed <= 1 else whole

    def _changed(self, whole: Fit) -> Fit | None:
        """Return the fit to the newest samples if they alone are of another task than those before; else None.

        Then the acting network explains most of those before, and few of the newest. And a network that is fitted to
        the newest ones, the latest apart, predicts these: wrong samples do not agree with each other.
        """
        kept, limit, measured = whole.kept, whole.limits.loss, self.sessions.measured
        if self.sessions.support[1].classes:  # some network always explains a few labels
            return None
        count = measured.enough + _LATEST
        newest, earlier, latest = kept[-count:], kept[-count:-_LATEST], kept[-_LATEST:]
        if len(kept) < count + measured.enough:
            return None
        good = self.sessions.losses(self.x[kept], self.y[kept], self.acting) <= limit  # NaN is not
        if np.mean(good[:-count]) < 0.5 or np.mean(good[-count:]) >= 0.5 or np.mean(good[-_LATEST:]) >= 0.5:
            return None
        # Samples that are all alike always agree: the robot may rest.
        if any(alike(measured.scale, self.x[part[-measured.enough :]]) for part in (earlier, newest)):
            return None
        fresh = self._replace(begin=None)
        fit = fresh._trimmed(fresh.to(earlier), len(earlier) // SHARE)
        if not fit.missed <= 1 or not np.median(fresh._losses(fit, latest)) <= limit:
            return None
        fit = fresh._trimmed(fresh.to(newest), count // SHARE)
        return fit._replace(begins=int(newest[0])) if fit.missed <= 1 else None

    def _by_turns(self, fit: Fit, most: int) -> Fit:
        """Drop the sample whose absence helps most, until the limits are kept.

        Those that fit worst are left out by turns. One bad sample of ten bends the network so much that good ones may
        fit worse than itself: the residual alone would name the wrong one.
        """
        while not fit.missed <= 1 and most > 0:
            trials = [self.to(fit.kept[fit.kept != sample]) for sample in self._worst(fit, fit.kept)[:_CANDIDATES]]
            if not trials:  # every class has one sample
                break
            fit, most = min(trials, key=lambda each: each.missed), most - 1
        return fit

    def _trimmed(self, fit: Fit, most: int) -> Fit:
        """Drop as many samples as may be, those that fit worst; then take back those that the limit of the loss allows.

        One of many samples bends a network little, and it bends none that was fitted without it: the residuals of such
        a network name the bad ones.

        Source: the concentration steps of Rousseeuw and Van Driessen, "Computing LTS Regression for Large Data Sets",
        2006.
        """
        kept = fit.kept
        if fit.missed <= 1 or not most:
            return fit
        for _ in range(_TRIMS):
            fit = self.to(np.setdiff1d(kept, self._worst(fit, kept, together=True)[:most]))
        if not fit.missed <= 1:
            return fit
        worst = np.array(self._worst(fit, kept, together=True)[:most], np.intp)
        losses, rest = self._losses(fit, worst), self._losses(fit, np.setdiff1d(kept, worst)).sum()
        sums, sizes = rest + losses[::-1].cumsum()[::-1], len(kept) - np.arange(len(worst))
        fewer = np.flatnonzero(sums <= fit.limits.loss * sizes)[:1]  # so few may be dropped
        more = self.to(np.setdiff1d(kept, worst[: fewer[0]])) if len(fewer) else fit
        return more if more.missed <= 1 else fit

    def _worst(self, fit: Fit, samples: NDArray[np.intp], together: bool = False) -> list[int]:
        """Those of the samples that may be left out, with the largest loss under a fit first; one, or `together`."""
        order = samples[np.argsort(-self._losses(fit, samples), kind="stable")].tolist()
        if not self.sessions.support[1].classes:
            return order
        left, spare = Counter(self.y[samples].tolist()), []
        for sample in order:
            if left[label := int(self.y[sample])] > 1:
                spare.append(sample)
                left[label] -= together
        return spare

    def _losses(self, fit: Fit, samples: NDArray[np.intp]) -> Array:
        network = fit.adapted.predictor or self.sessions.start
        return np.nan_to_num(self.sessions.losses(self.x[samples], self.y[samples], network), nan=np.inf)
