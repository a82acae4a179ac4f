"""The verdict of held-out samples: whether the loss on them would rise by more than their noise."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.arrays import all_finite

_LEFT_OUT = 5
"""One of so many judges may be an outlier."""
_ERRORS = 2.0
"""A rise counts if it is larger than so many standard errors: one in 40 is by chance."""


class HeldOut(NamedTuple):
    """The mean loss on held-out samples, which the inner loop did not see; on normalized outputs.

    Where there are five or more, the worst fifth under both networks is left out.
    """

    before: float
    """With the weights that act at the start of the adaptation."""
    after: float
    """With the adapted weights."""
    worse: bool
    """Whether the loss rises by more than its noise. A single sample cannot tell."""


def judge(before: NDArray, after: NDArray) -> HeldOut:
    """Return the verdict from the losses of each held-out sample before and after, `(samples,)`.

    Judges can be outliers too: the worst fifth under both networks is left out. What remains is judged
    by the mean rise and by the signed ranks of the rises. The mean sees a few large rises, the ranks see many small
    ones beside a few large ones.

    Source: Wilcoxon, "Individual Comparisons by Ranking Methods", 1945.
    """
    kept = np.minimum(before, after).argsort(kind="stable")[: len(before) - len(before) // _LEFT_OUT]
    before, after = before[kept].astype(np.float64), after[kept].astype(np.float64)
    rises = after - before
    # If the acting weights give NaN, any finite loss is better. Adapted weights that give NaN are refused elsewhere.
    worse = len(kept) > 1 and all_finite(rises) and (_mean_rises(rises) or _ranks_rise(rises))
    return HeldOut(_mean(before), _mean(after), worse)


def _mean(values: NDArray) -> float:
    return float(np.add.reduce(values)) / len(values)  # what `mean` computes, in a third of its time


def _mean_rises(rises: NDArray) -> bool:
    count, mean = len(rises), _mean(rises)
    around = rises - mean
    return mean > _ERRORS * math.sqrt(np.vdot(around, around) / (count - 1) / count)


def _ranks_rise(rises: NDArray) -> bool:
    count = len(rises)
    by_size = rises[np.abs(rises).argsort(kind="stable")]
    (ranks,) = (by_size > 0).nonzero()
    spread = math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    return float(np.add.reduce(ranks + 1)) - count * (count + 1) / 4 > _ERRORS * spread
