"""The inbox: delayed y, the order of time and of tasks, and that nothing is lost without being counted."""

import numpy as np
import pytest

from msr_runtime import InputError
from msr_runtime.adaptation.inbox import Inbox

X, Y = np.zeros(3, np.float32), np.zeros(2, np.float32)


def test_arrivals_are_taken_in_the_order_of_tasks_and_times() -> None:
    """Whatever the order in which they were put in; those of one time keep theirs."""
    inbox = Inbox(10)
    inbox.wait(0.5, X)
    for at in (3.0, 1.0, 2.0, 2.0):
        inbox.put(at, X, Y)
    assert inbox.change_task() == 1
    inbox.put(0.0, X, Y)
    inbox.complete(0.5, Y)  # its x was observed in the task before
    taken = inbox.take()
    assert [(each.task, each.at) for each in taken] == [(0, 0.5), (0, 1.0), (0, 2.0), (0, 2.0), (0, 3.0), (1, 0.0)]
    assert [each.number for each in taken] == [5, 1, 2, 3, 0, 4]
    assert (inbox.observed, inbox.taken, len(inbox), inbox.open) == (6, 6, 0, 0)


def test_a_y_finds_its_x_once() -> None:
    """A second y of the same time, and one whose x was never observed, are of no use, and arrive without x."""
    inbox = Inbox(10)
    inbox.wait(1.0, X)
    assert inbox.open == 1
    assert inbox.complete(1.0, Y) is X
    assert inbox.complete(1.0, Y) is None
    assert inbox.complete(7.0, Y) is None
    assert [each.x is None for each in inbox.take()] == [False, True, True]


def test_an_x_that_waits_too_long_arrives_without_its_y() -> None:
    """The latest ones stay; labeled ones among them take their place too."""
    inbox = Inbox(3)
    for at in range(5):
        inbox.wait(float(at), X)
        if at == 2:
            inbox.complete(2.0, Y)
    assert inbox.open == 2  # 3 and 4
    taken = inbox.take()
    assert [(each.at, each.y is None) for each in taken] == [(0.0, True), (1.0, True), (2.0, False)]
    assert inbox.complete(0.0, Y) is None


def test_two_x_of_one_time_cannot_both_wait() -> None:
    """The error names the time, and the first one still waits."""
    inbox = Inbox(3)
    inbox.wait(1.5, X)
    with pytest.raises(InputError, match=r"observed at 1\.5 s waits for its y already"):
        inbox.wait(1.5, X)
    assert inbox.complete(1.5, Y) is X


def test_a_full_inbox_drops_the_oldest_and_counts() -> None:
    """The numbers tell how many were dropped."""
    inbox = Inbox(3)
    for at in range(5):
        inbox.put(float(at), X, Y)
    assert [each.at for each in inbox.take()] == [2.0, 3.0, 4.0]
    assert inbox.observed - inbox.taken == 2
