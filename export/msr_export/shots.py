"""As many support samples per task as a family has."""

from collections.abc import Callable
from typing import TypeVar

from msr_runtime.errors import FamilyError

MANY_SHOTS = 64
"""The most support samples that an export measures a learner with."""
_Drawn = TypeVar("_Drawn")


def with_most_shots(draw: Callable[[int], _Drawn], shots: int, most: int) -> _Drawn:
    """Draw tasks with as many support samples as the family gives: recorded tasks have only so many.

    Args:
        draw: Draws tasks with so many.
        shots: The fewest: those of meta-training.
        most: The number to try first. Half of it is tried next, and so on.

    Raises:
        FamilyError: The family refuses the fewest too.

    """
    while True:
        try:
            return draw(most)
        except FamilyError:
            if most <= shots:
                raise
            most = max(shots, most // 2)
