"""The order in which several matrices are multiplied. It decides how many multiplications their product takes."""

from collections.abc import Sequence
from functools import cache

Order = int | tuple["Order", "Order"]
"""The number of a matrix, or the product of what two orders give."""


def fewest(sizes: Sequence[int]) -> Order:
    """Return the order with the fewest multiplications.

    Args:
        sizes: Rows of the first matrix, and columns of each.

    Source: the matrix chain problem, solved as by Cormen et al., Introduction to Algorithms, third edition, section
    15.2.
    """

    @cache
    def best(first: int, end: int) -> tuple[int, Order]:
        if end - first == 1:
            return 0, first
        found: list[tuple[int, Order]] = []
        for middle in range(first + 1, end):
            (before, left), (after, right) = best(first, middle), best(middle, end)
            found.append((before + after + sizes[first] * sizes[middle] * sizes[end], (left, right)))
        return min(found, key=lambda each: each[0])

    return best(0, len(sizes) - 1)[1]


def multiplications(order: Order, sizes: Sequence[int]) -> int:
    """Return how many multiplications an order takes; `sizes` as in `fewest`."""
    return _counted(order, sizes)[0]


def _counted(order: Order, sizes: Sequence[int]) -> tuple[int, int, int]:
    """The multiplications of an order, its first matrix, and the one after its last."""
    if isinstance(order, int):
        return 0, order, order + 1
    (before, first, middle), (after, _, end) = (_counted(part, sizes) for part in order)
    return before + after + sizes[first] * sizes[middle] * sizes[end], first, end
