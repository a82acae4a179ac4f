"""Samples of two regions: the sector that the support set shows, and the wide space around it."""

from collections.abc import Callable

import numpy as np

from msr_runtime.errors import FamilyError
from msr_runtime.task import Array, TaskBatch


def require_even(family: str, queries: int) -> None:
    """Raise FamilyError, which names the family, unless the queries divide into two equal query sets."""
    if queries % 2:
        raise FamilyError(
            f"queries is {queries}, but it must be even: {family} divides the queries into two query sets of "
            "equal size (sector, wide); add one query or leave one out (--settings.queries)"
        )


def sector_and_wide(draw: Callable[[int, int], tuple[Array, Array]], tasks: int, shots: int, queries: int) -> TaskBatch:
    """Draw tasks whose support set and first half of the queries are sector samples, and whose second half are wide.

    Args:
        draw: Draws a new task, and x and y of some sector samples and, after them, of some wide samples of it.
        tasks: The number of tasks.
        shots: Support samples per task.
        queries: Query samples per task, an even number.

    """
    half = queries // 2
    x, y = (np.stack(part) for part in zip(*(draw(shots + half, half) for _ in range(tasks)), strict=True))
    return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])
