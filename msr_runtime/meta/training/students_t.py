"""Student's t over tasks: how surely a mean differs from zero, in one measure for many tasks and for few."""

import numpy as np

from msr_runtime.families import CountedFamily
from msr_runtime.meta.training.kernel_ridge import Floats
from msr_runtime.task import TaskFamily

TASKS = 24
"""Tasks that a test draws. A family that has fewer is tested on those: a task drawn twice proves nothing more."""


def tasks_to_test(family: TaskFamily) -> int:
    """Return how many different training tasks a test can draw, at most `TASKS`."""
    return min(TASKS, family.count_tasks("train")) if isinstance(family, CountedFamily) else TASKS


def paired_t(gains: Floats) -> Floats:
    """Return Student's t of the mean over the first axis, the tasks. It is 0 for a single task.

    The same t is less sure with fewer tasks. So a t of fewer than `TASKS` is turned into the one that is as sure with
    `TASKS`.

    Source: Wallace, "Bounds on normal approximations to Student's and the chi-square distributions", 1959, whose
    approximation leads from t to the normal distribution and back.

    Args:
        gains: `(tasks, ...)`.

    """
    tasks = len(gains)
    if tasks < 2:
        return np.zeros(gains.shape[1:])
    t = gains.mean(0) / np.maximum(gains.std(0, ddof=1) / np.sqrt(tasks), 1e-12)
    if tasks >= TASKS:
        return t
    few, many = tasks - 1, TASKS - 1
    normal = np.sqrt(few * np.log1p(t**2 / few)) * _factor(few)
    return np.sign(t) * np.sqrt(many * np.expm1((normal / _factor(many)) ** 2 / many))


def _factor(degrees: int) -> float:
    return (8 * degrees + 1) / (8 * degrees + 3)
