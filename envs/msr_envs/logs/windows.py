"""Draw the support set and the query set of one task."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Picks = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Numbers of the samples of the support set and of the query set."""


class Windows(NamedTuple):
    """How windows lie in time: a stretch of support, a stretch that nobody uses, and the queries."""

    between: int
    """Samples between the support and the first query."""

    def holds(self, drives: Sequence[int]) -> int:
        """Return how many samples of a task can be used at once, support and queries together.

        Args:
            drives: Samples of each drive of the task. A window lies in one drive.

        """
        return max(drives) - self.between

    def draw(self, rng: np.random.Generator, drives: Sequence[int], shots: int, queries: int) -> Picks:
        """Draw a window, every one that fits with the same chance.

        If too few samples follow the support, queries repeat.

        Args:
            rng: The source of all randomness.
            drives: Samples of each drive of the task, whose samples are numbered through. One fits at least.
            shots: Support samples.
            queries: Query samples.

        """
        lead = shots + self.between
        lengths = np.array(drives)
        room = lengths - lead  # the queries that a drive can follow the support with
        distinct = np.minimum(queries, room)
        starts = np.where(room >= min(queries, 1), room - distinct + 1, 0)
        place = int(rng.integers(starts.sum()))
        drive = int(np.searchsorted(starts.cumsum(), place, side="right"))
        first = int(lengths[:drive].sum()) + place - int(starts[:drive].sum())
        query = first + lead + np.arange(queries) % max(1, distinct[drive])
        return first + np.arange(shots), query


class Anywhere(NamedTuple):
    """Support and queries from the whole task, at random. No sample is in both."""

    def holds(self, drives: Sequence[int]) -> int:
        """Return how many samples of a task can be used at once, support and queries together."""
        return sum(drives)

    def draw(self, rng: np.random.Generator, drives: Sequence[int], shots: int, queries: int) -> Picks:
        """Draw samples. A query repeats only after every sample outside the support was drawn once."""
        order = rng.permutation(sum(drives))
        others = order[shots:]
        return order[:shots], others[np.arange(queries) % max(1, len(others))]
