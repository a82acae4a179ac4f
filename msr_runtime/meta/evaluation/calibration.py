"""Whether a model that says how sure it is says so rightly: over the group orbit, on fresh tasks.

The code works on any function that gives deviations, so that torch learners and exported bundles are measured alike.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.meta.evaluation.scores import draw_scored
from msr_runtime.task import Array, Split, TaskFamily

INTERVAL, DEVIATIONS = 0.9, 1.6448536269514722
"""A normal number lies within `DEVIATIONS` standard deviations of its mean with probability `INTERVAL`."""

PredictSurely = Callable[[Array], tuple[Array, Array]]
"""x `(n, *x)` to y `(n, *y)` and the standard deviations `(n, *y)` of what would be measured, in raw units."""
AdaptSurely = Callable[[Array, Array], PredictSurely]
"""Support x and y to the function that predicts."""


class Calibration(NamedTuple):
    """How right the deviations are, per task. Each array is `(tasks,)`, float64."""

    held: NDArray[np.float64]
    """Share of the numbers of y that lie in the intervals that should hold `INTERVAL` of them."""
    nis: NDArray[np.float64]
    """Mean squared error over the variance (normalized innovation squared): 1 if the variances are right, below 1 if
    they are too large."""


def calibrate(
    family: TaskFamily,
    adapt: AdaptSurely,
    rng: np.random.Generator,
    *,
    tasks: int = 100,
    shots: int = 10,
    queries: int = 64,
    split: Split = "test",
) -> Calibration:
    """Adapt to fresh tasks, and compare the errors over the orbit with the deviations.

    Args:
        family: The family.
        adapt: The method, such as `torch_adapt_surely(...)`.
        rng: Source of every random draw. In the same state it gives the tasks of `score`, and so do the other
            arguments.
        tasks: Number of tasks.
        shots: Support samples per task.
        queries: Query samples per task and query set.
        split: The split that the tasks come from.

    """
    batch, (orbit_x, orbit_y) = draw_scored(family, rng, tasks, shots, queries, split)
    ratios = []
    for support_x, support_y, x, y in zip(batch.support_x, batch.support_y, orbit_x, orbit_y, strict=True):
        predicted, deviations = adapt(support_x, support_y)(x)
        ratios.append(((y - predicted) / deviations).ravel().astype(np.float64))
    ratio = np.stack(ratios)
    return Calibration((np.abs(ratio) <= DEVIATIONS).mean(1), np.square(ratio).mean(1))
