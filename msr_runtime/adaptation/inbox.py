"""The inbox of an OnlineAdapter: what was observed and not learned from yet, in the order of time."""

import itertools
from collections import deque
from typing import NamedTuple

from numpy.typing import NDArray

from msr_runtime.errors import InputError
from msr_runtime.task import Array


class Observed(NamedTuple):
    """One sample, or the half of one whose other half never came."""

    number: int
    """Counts the arrivals, so that those which a full inbox drops can be counted."""
    task: int
    """How many times the task had changed when x was observed."""
    at: float
    """The time of x, in s."""
    x: Array | None
    """`(*x)` in raw units. None: nobody waited for this y."""
    y: NDArray | None
    """`(*y)` in raw units. None: the y of this x never came."""


class Change(NamedTuple):
    """A change of the task."""

    task: int
    """The number of the task that begins."""
    inflate: float | None
    """By what factor the model is less sure of what it learned. None: the task is another one altogether."""


class Inbox:
    """Takes samples from any thread, and gives them to one thread. No method waits, and none takes a lock.

    Args:
        capacity: Most samples held, and most x that wait for their y. The oldest give way.
    """

    def __init__(self, capacity: int) -> None:
        # Appending to a deque and popping from it are atomic, so no lock is needed. A full deque drops its oldest
        # entry.
        self._arrived: deque[Observed] = deque(maxlen=capacity)
        self._numbers, self._tasks = itertools.count(), itertools.count(1)
        self._capacity = capacity
        self._open: dict[float, tuple[int, Array]] = {}
        """The x that wait for their y, by their time."""
        self._order: deque[float] = deque()
        """The times of the latest x, waiting or not."""
        self._changes: deque[Change] = deque()
        self.task = 0
        """How many times the task has changed."""
        self.observed = self.taken = 0

    def __len__(self) -> int:
        """How many arrivals nobody has taken yet."""
        return len(self._arrived)

    @property
    def open(self) -> int:
        """How many x wait for their y."""
        return len(self._open)

    def put(self, at: float, x: Array, y: NDArray) -> None:
        """Put in a whole sample."""
        self._arrive(self.task, at, x, y)

    def wait(self, at: float, x: Array) -> None:
        """Keep an x until its y comes.

        Raises:
            InputError: If another x of the same time waits.
        """
        if at in self._open:
            raise InputError(
                f"an x observed at {at} s waits for its y already, but each needs a time of its own; give `at` the "
                "time of the measurement, or leave it out"
            )
        self._open[at] = self.task, x
        self._order.append(at)
        while len(self._order) > self._capacity:
            try:
                first = self._order.popleft()
            except IndexError:  # another thread was faster
                return
            if (kept := self._open.pop(first, None)) is not None:
                self._arrive(kept[0], first, kept[1], None)

    def complete(self, at: float, y: NDArray) -> Array | None:
        """Put in the sample whose x waits. Return this x, or None if none of this time waits."""
        task, x = self._open.pop(at, (self.task, None))
        self._arrive(task, at, x, y)
        return x

    def change_task(self, inflate: float | None = None) -> int:
        """Let a new task begin, see `Change`. Return its number."""
        task = next(self._tasks)
        self._changes.append(Change(task, inflate))
        self.task = task
        return task

    def changes(self) -> list[Change]:
        """Take the changes of the task that nobody has taken yet."""
        return [self._changes.popleft() for _ in range(len(self._changes))]

    def take(self) -> list[Observed]:
        """Take all that has arrived: task after task, and within a task in the order of time."""
        taken = []
        for _ in range(len(self._arrived)):  # not until it is empty: a fast source would never let this loop end
            arrived = self._arrived.popleft()
            taken.append(arrived)
            # the largest number, because two threads may append out of order
            self.observed = max(self.observed, arrived.number + 1)
        self.taken += len(taken)
        return sorted(taken, key=lambda each: (each.task, each.at))

    def _arrive(self, task: int, at: float, x: Array | None, y: NDArray | None) -> None:
        self._arrived.append(Observed(next(self._numbers), task, at, x, y))
