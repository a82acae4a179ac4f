"""The action guard's latch: which refusals stop the robot for good, how it stops, and what a dead observation does."""

import math
from typing import Any

import numpy as np
import pytest

from msr_runtime import Field, InputError

GOOD = np.array([0.5, -0.5, 2.0], np.float32)


REST = np.zeros(3)


@pytest.mark.parametrize("latch_after", [1, 3])
def test_it_latches_until_it_is_rearmed(guarded: Any, latch_after: int) -> None:
    """Refusals count in a row or not. A latched guard refuses good actions too, until `rearm`."""
    robot = guarded(latch_after=latch_after)
    for _ in range(latch_after):
        robot.ask(GOOD)
        robot.ask([9, 0, 0])
    np.testing.assert_array_equal(robot.ask(REST), GOOD)
    report = robot.guard.report()
    assert report.refused == {"bounds": latch_after, "latched": 1}
    assert str(report).endswith("; latched")
    robot.guard.rearm()
    np.testing.assert_array_equal(robot.ask(REST), REST)
    assert not robot.guard.report().latched
    for _ in range(latch_after - 1):
        robot.ask([9, 0, 0])
    assert not robot.guard.report().latched


@pytest.mark.parametrize("hz", [10.0, 1000.0])
def test_isolated_refusals_are_forgotten(guarded: Any, hz: float) -> None:
    """Twelve stale ticks among 12,000 latch nothing; ten among a hundred do."""
    robot = guarded(hz=hz, max_age=1.0)
    for tick in range(12_000):
        robot.ask(GOOD, after=1 / hz, age=2.0 if tick % 1000 == 0 else 0.0)
    assert robot.guard.report().refused == {"stale": 12}
    assert not robot.guard.report().latched
    for tick in range(100):
        robot.ask(GOOD, after=1 / hz, age=2.0 if tick % 10 == 0 else 0.0)
    assert robot.guard.report().latched


def test_the_window_can_be_given(guarded: Any) -> None:
    """Three refusals in 5 s latch, three in 6 s do not; without an end, all count."""
    for window, pause, latched in ((5.1, 25, True), (5.1, 30, False), (math.inf, 1000, True)):
        robot = guarded(latch_after=3, window=window)
        for tick in range(2 * pause + 1):
            robot.ask([9, 0, 0] if tick % pause == 0 else GOOD)
        assert robot.guard.report().latched is latched


@pytest.mark.parametrize("latch_after", [10, 200])
def test_a_loop_that_hardly_runs_latches_too(guarded: Any, latch_after: int) -> None:
    """An overloaded machine calls the guard once per second. Refusals in a row are a fault all the same."""
    robot = guarded(latch_after=latch_after)
    for _ in range(latch_after):
        robot.ask([9, 0, 0], after=1.0)
    assert robot.guard.report().latched


def test_a_window_in_which_it_never_latches_is_refused(guarded: Any) -> None:
    """At 10 Hz, eleven refusals take a second."""
    with pytest.raises(InputError, match="would never latch"):
        guarded(latch_after=11, window=1.0)
    robot = guarded(latch_after=10, window=1.0)
    for _ in range(10):
        robot.ask([9, 0, 0])
    assert robot.guard.report().latched


def test_hold_is_not_the_last_word_for_a_moving_robot(guarded: Any) -> None:
    """Once latched, a velocity goes to zero in 1 s from its largest value, and straight; a position stays."""
    fields = (guarded.MOVING[0], Field(name="lift", shape=(1,), unit="m", low=0.0, high=2.0, kind="position"))
    robot = guarded(fields, latch_after=3)
    robot.ask([0.8, -0.4, 1.5])
    for _ in range(2):
        np.testing.assert_allclose(robot.ask([math.nan, 0, 0]), [0.8, -0.4, 1.5])
    np.testing.assert_allclose(robot.ask([math.nan, 0, 0]), [0.7, -0.35, 1.5], rtol=1e-6)  # it brakes at once
    way = np.array([robot.ask(REST) for _ in range(8)])
    np.testing.assert_allclose(way[:, 0], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(way[:, 1], -way[:, 0] / 2, atol=1e-6)
    np.testing.assert_array_equal(way[-1], [0, 0, 1.5])
    late = guarded(fields, latch_after=1)
    late.ask([0.8, -0.4, 1.5])
    np.testing.assert_array_equal(late.ask([math.nan, 0, 0], after=5.0), [0, 0, 1.5])  # the time is up


def test_a_rate_says_how_fast_to_stop(guarded: Any) -> None:
    """0.4 m/s² stops 0.8 m/s in 2 s; an effort falls too, as one that is held accelerates for ever."""
    grip = Field(name="grip", shape=(1,), unit="N", low=-5.0, high=math.inf, kind="effort")
    robot = guarded(
        (guarded.MOVING[0], grip),
        rates={"velocity": 0.4, "grip": 10.0},
        state=[0.8, 0, 2],
        latch_after=1,
    )
    way = np.array([robot.ask([math.nan, 0, 0]) for _ in range(21)])
    np.testing.assert_allclose(way[:, 0], np.maximum(0.8 - 0.04 * np.arange(1, 22), 0), atol=1e-5)
    np.testing.assert_allclose(way[:4, 2], [1, 0, 0, 0], atol=1e-5)


def test_a_field_that_may_not_be_zero_stops_at_its_slowest(guarded: Any) -> None:
    """An aircraft keeps its least airspeed."""
    airspeed = (Field(name="airspeed", shape=(1,), unit="m/s", low=12.0, high=30.0, kind="velocity"),)
    robot = guarded(airspeed, state=[20], latch_after=1)
    np.testing.assert_allclose([robot.ask([math.nan])[0] for _ in range(4)], [17, 14, 12, 12], rtol=1e-6)


class Network:
    """A network that predicts `GOOD`, and refuses observations that are not finite."""

    def __call__(self, x: Any) -> np.ndarray:
        if not np.isfinite(x).all():
            raise InputError(f"x is {x}")
        return GOOD


def test_a_dead_observation_holds_and_latches_and_ends_no_loop(guarded: Any) -> None:
    """The network refuses it, so there is no action: the guard holds, counts, says why, and stops the robot."""
    robot = guarded(guarded.MOVING, latch_after=3)

    def act(x: float) -> list[float]:
        robot.now += 0.1
        return robot.guard.act(Network(), [x], robot.now).tolist()

    assert act(0.0) == GOOD.tolist()
    for _ in range(2):
        assert act(math.nan) == GOOD.tolist()
    assert act(0.0) == GOOD.tolist()
    for _ in range(20):
        sent = act(math.nan)
    assert sent == [0, 0, 2]  # the velocity is zero, the grip is held
    report = robot.guard.report()
    assert (report.passed, report.latched) == (2, True)
    assert report.refused == {"observation": 3, "latched": 19}
    assert str(report).endswith("; latched\nlatest observation refused: x is [nan]")


def test_a_mistake_in_the_program_is_not_a_dead_observation(guarded: Any) -> None:
    """Only what the network refuses stops the robot silently. Everything else is raised, for a `finally` to act."""
    robot = guarded()

    def broken(_: Any) -> np.ndarray:
        raise KeyError("x")

    with pytest.raises(KeyError):
        robot.guard.act(broken, [0], robot.now)
    with pytest.raises(InputError, match=r"the fields make \(3,\)"):
        robot.guard.act(lambda _: np.zeros((1, 3), np.float32), [0], robot.now)
