"""The action guard: which actions it sends, what acts in place of the others, and that every refusal is counted."""

import math
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from msr_runtime import Field, InputError
from msr_runtime.control.action_guard import Trip

GOOD = np.array([0.5, -0.5, 2.0], np.float32)
REST = np.zeros(3)


def test_a_good_action_is_sent_as_it_is(guarded: Any) -> None:
    """An action on a bound passes, as do lists and float64, and nothing counts as refused."""
    robot = guarded()
    for action in (GOOD, GOOD.tolist(), GOOD.astype(np.float64), [1.0, -1.0, -5.0], [-1.0, 1.0, 1e30]):
        sent = robot.ask(action)
        assert sent.dtype == np.float32
        np.testing.assert_array_equal(sent, np.asarray(action, np.float32))
    report = robot.guard.report()
    assert (report.passed, report.clipped, report.slowed, report.refused) == (5, 0, 0, {})
    assert str(report) == "actions   5 sent, refused: none"


@pytest.mark.parametrize(
    ("action", "age", "trip"),
    [
        ([math.nan, 0, 0], 0, Trip.NOT_FINITE),
        ([0, 0, math.inf], 0, Trip.NOT_FINITE),
        ([0, 0, 1e300], 0, Trip.NOT_FINITE),
        ([1.21, 0, 0], 0, Trip.BOUNDS),
        ([0, -1e30, 0], 0, Trip.BOUNDS),
        ([0, 0, -5.1], 0, Trip.BOUNDS),
        (GOOD, 0.2, Trip.STALE),
        (GOOD, -1e9, Trip.STALE),
        (GOOD, math.nan, Trip.STALE),
    ],
)
def test_a_bad_action_is_held_back_and_counted(guarded: Any, action: Any, age: float, trip: Trip) -> None:
    """The last action sent is repeated, and good actions pass again afterwards."""
    robot = guarded()
    robot.ask(GOOD)
    held = robot.ask(action, age=age)
    np.testing.assert_array_equal(held, GOOD)
    assert held.dtype == np.float32
    assert robot.guard.report().refused == {str(trip): 1}
    np.testing.assert_array_equal(robot.ask(GOOD / 2), GOOD / 2)
    assert robot.guard.report().passed == 2
    assert not robot.guard.report().latched


def test_a_network_that_overshoots_its_bounds_by_little_is_clipped(guarded: Any) -> None:
    """By a tenth of the range it is clipped and counted, by more it trips; an infinite range has no margin."""
    robot = guarded()
    for _ in range(30):
        np.testing.assert_array_equal(robot.ask([1.19, -1.19, 0]), [1, -1, 0])
    report = robot.guard.report()
    assert (report.passed, report.clipped, report.refused) == (30, 30, {})
    assert str(report) == "actions   30 sent, 30 clipped, refused: none"
    np.testing.assert_array_equal(guarded(margin=0.0).ask([1.01, 0, 0]), REST)
    np.testing.assert_array_equal(guarded(margin=0.5).ask([1.9, 0, 0]), [1, 0, 0])


def test_no_rounding_exceeds_a_bound(guarded: Any) -> None:
    """float32 rounds 0.1 up. What is sent is below 0.1; no overshoot is counted; no fallback gets around it."""
    tenth = (Field(name="speed", shape=(2,), unit="m/s", low=-0.1, high=0.1),)
    for margin in (0.0, 0.1):
        robot = guarded(tenth, margin=margin)
        assert float(np.float32(0.1)) > 0.1
        sent = robot.ask(np.array([0.1, -0.1], np.float32))
        assert np.abs(sent.astype(np.float64)).max() <= 0.1
        np.testing.assert_allclose(sent, [0.1, -0.1])
        assert (robot.guard.report().passed, robot.guard.report().clipped) == (1, 0)
    robot = guarded(tenth, fallback=lambda _: np.array([0.1, 7.0]))
    sent = robot.ask([math.nan, 0])
    assert sent.dtype == np.float32
    assert np.abs(sent.astype(np.float64)).max() <= 0.1


def test_the_fallbacks_act(guarded: Any) -> None:
    """`hold` begins nearest to zero; the result of a function is clipped to the bounds, and it gets the last action."""
    raised = (Field(name="height", shape=(2,), unit="m", low=0.5, high=1.0),)
    np.testing.assert_array_equal(guarded(raised).ask([math.nan, 0.6]), [0.5, 0.5])
    np.testing.assert_array_equal(guarded(fallback="zero").ask([9, 0, 0]), REST)
    seen = []

    def backup(last: np.ndarray) -> list[float]:
        seen.append(last)
        return [last[0] + 5, 0.25, -9]

    robot = guarded(guarded.MOVING, fallback=backup, latch_after=2)
    robot.ask(GOOD)
    for _ in range(3):  # also once it has latched
        sent = robot.ask([9, 0, 0])
        np.testing.assert_array_equal(sent, [1.0, 0.25, -5.0])
        assert sent.dtype == seen[0].dtype == np.float32
    np.testing.assert_array_equal(seen[0], GOOD)


@pytest.mark.parametrize(
    ("result", "failure"),
    [
        (ZeroDivisionError, "raised ZeroDivisionError"),
        ("none such", "raised ValueError"),
        (None, "shape"),
        ([0, 0], "shape"),
        ([[0, 0, 0]], "shape"),
        ([math.nan, 0, 0], "not finite"),
        ([1e300, 0, 0], "not finite"),
    ],
)
def test_a_fallback_that_fails_is_held_and_counted(guarded: Any, result: Any, failure: str) -> None:
    """No error reaches the loop. Once latched, a robot whose fallback fails stops."""

    def backup(_: np.ndarray) -> Any:
        if result is ZeroDivisionError:
            raise result
        return result

    robot = guarded(guarded.MOVING, fallback=backup, latch_after=3)
    robot.ask(GOOD)
    for _ in range(2):
        np.testing.assert_array_equal(robot.ask([9, 0, 0]), GOOD)
    report = robot.guard.report()
    assert report.fallback_failed == {failure: 2}
    assert str(report) == f"actions   1 sent, refused: 2 bounds; fallback failed: 2 {failure}"
    for _ in range(10):
        sent = robot.ask([9, 0, 0])
    np.testing.assert_array_equal(sent, [0, 0, 2])


def test_what_was_returned_belongs_to_the_caller(guarded: Any) -> None:
    """Writing into an action that was sent or held changes nothing in the guard."""
    robot = guarded()
    action = GOOD.copy()
    robot.ask(action)[...] = 7
    action[...] = 7
    held = robot.ask([9, 0, 0])
    np.testing.assert_array_equal(held, GOOD)
    held[...] = 7
    np.testing.assert_array_equal(robot.ask([9, 0, 0]), GOOD)


def test_rearming_from_another_thread_loses_no_count(guarded: Any) -> None:
    """While one thread acts and another rearms and reports, every action is counted."""
    robot, stop = guarded(latch_after=2), threading.Event()

    def rearm() -> None:
        while not stop.is_set():
            robot.guard.rearm()
            robot.guard.report()

    thread = threading.Thread(target=rearm)
    thread.start()
    try:
        for tick in range(3000):
            robot.ask(GOOD if tick % 2 else [9, 0, 0])
    finally:
        stop.set()
        thread.join()
    report = robot.guard.report()
    assert report.passed + sum(report.refused.values()) == 3000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hz": 0}, "hz is 0"),
        ({"hz": math.inf}, "hz is inf"),
        ({"max_age": math.nan}, "max_age is nan"),
        ({"latch_after": 0}, "latch_after is 0"),
        ({"window": 0}, "window is 0"),
        ({"margin": -0.1}, "margin is -0.1"),
        ({"rates": {"velocity": -1}}, r"rates\['velocity'\] is -1"),
        ({"rates": {"torque": 1}}, r"rates has 'torque', but the fields are \['velocity', 'grip'\]"),
        ({"fallback": "stop"}, "fallback is 'stop', but 'hold', 'zero' or a function is wanted"),
        ({"fallback": None}, "fallback is None"),
        ({"state": [0, 0]}, "3 finite numbers"),
    ],
)
def test_a_guard_that_could_not_guard_is_refused(guarded: Any, options: dict, message: str) -> None:
    """Numbers out of range, names of no field and unknown words raise at once."""
    with pytest.raises(InputError, match=message):
        guarded(**options)


def test_bounds_that_cannot_be_kept_are_refused(guarded: Any) -> None:
    """Bounds without zero need another fallback than zero; bounds without a float32 need to be wider."""
    with pytest.raises(InputError, match="zero is outside"):
        guarded((Field(name="height", shape=(1,), unit="m", low=0.5, high=1.0),), fallback="zero")
    with pytest.raises(InputError, match=r"its kind is effort, .* but nothing says how fast"):
        guarded((Field(name="grip", shape=(1,), unit="N", low=-5.0, high=math.inf, kind="effort"),))
    with pytest.raises(InputError, match="no float32 lies between"):
        guarded((Field(name="height", shape=(1,), unit="m", low=0.1, high=0.1 + 1e-12),))


@pytest.mark.parametrize("action", [[0, 0], [[0, 0, 0]], 0.0])
def test_an_action_of_another_shape_is_a_mistake_in_the_program(guarded: Any, action: Iterable) -> None:
    """It raises and is not counted."""
    robot = guarded()
    with pytest.raises(InputError, match=r"the fields make \(3,\)"):
        robot.ask(action)
    assert robot.guard.report().refused == {}


def test_a_masked_action_is_refused_by_name(guarded: Any) -> None:
    """Its numbers below the mask were never meant."""
    with pytest.raises(InputError, match="the action is a masked array"):
        guarded().ask(np.ma.masked_invalid([0.0, math.nan, 0.0]))
