"""The action guard's rates: how fast a value may change, from which state, and angles that wrap."""

import math
from typing import Any

import numpy as np
import pytest

from msr_runtime import Field, InputError

GOOD = np.array([0.5, -0.5, 2.0], np.float32)


HEADING = (Field(name="heading", shape=(1,), unit="rad", low=-math.pi, high=math.pi, wraps=2 * math.pi),)


REST = np.zeros(3)


def test_a_rate_is_per_second_of_the_clock(guarded: Any) -> None:
    """2 m/s² let 0.2 m/s pass in 0.1 s and in a hundred calls within 0.1 s; a value without a rate is free."""
    robot = guarded(rates={"velocity": 2.0}, state=REST)
    for step in range(1, 6):
        action = [0.199 * step, 0.0, 100.0 * step]
        np.testing.assert_allclose(robot.ask(action), action, rtol=1e-6)
    assert robot.guard.report().slowed == 0
    busy = guarded(rates={"velocity": 2.0}, state=REST)
    for _ in range(100):
        sent = busy.ask([0.2, 0, 0], after=4e-6)
    assert sent[0] == pytest.approx(2 * 100 * 4e-6, rel=1e-4)
    assert busy.guard.report().slowed == busy.guard.report().passed == 100


def test_a_jump_is_refused_and_the_robot_gets_to_the_new_value_at_the_rate(guarded: Any) -> None:
    """The network's step is a fault. If it then stays there, what is sent follows at the rate, without another one."""
    robot = guarded(rates={"velocity": 2.0}, state=REST)
    robot.ask([0, 0, 0])
    np.testing.assert_array_equal(robot.ask([0.9, 0, 0]), REST)
    way = [robot.ask([0.9, 0, 0])[0] for _ in range(6)]
    np.testing.assert_allclose(way, [0.2, 0.4, 0.6, 0.8, 0.9, 0.9], rtol=1e-5)
    report = robot.guard.report()
    assert (report.refused, report.slowed) == ({"rate": 1}, 4)
    assert str(report) == "actions   7 sent, 4 slowed, refused: 1 rate"


def test_a_network_that_jumps_to_and_fro_latches(guarded: Any) -> None:
    """Every answer is far from the one before it, wherever the robot is."""
    robot = guarded(guarded.MOVING, rates={"velocity": 2.0}, state=REST)
    for tick in range(12):
        sent = robot.ask([0.9 if tick % 2 else -0.9, 0, 0])
    assert robot.guard.report().refused == {"rate": 10, "latched": 1}
    assert abs(sent[0]) <= 0.2


@pytest.mark.parametrize("hiccup", ["skipped", "stale", "late", "three skipped", "half a second"])
def test_a_hiccup_of_the_loop_is_no_fault_of_the_network(guarded: Any, hiccup: str) -> None:
    """At 60 % of the rate there is no jump in any of them, and the robot is soon where it would have been."""
    robot = guarded(rates={"velocity": 1.0}, state=REST)
    asked, speed = 0.0, 0.06
    pauses = {"skipped": 0.2, "late": 0.15, "three skipped": 0.4, "half a second": 0.5}
    for tick in range(1, 13):
        after = {4: pauses.get(hiccup, 0.1), 5: 0.05 if hiccup == "late" else 0.1}.get(tick, 0.1)
        asked += speed * after / 0.1
        sent = robot.ask([asked, 0, 0], after=after, age=0.2 if hiccup == "stale" and tick == 4 else 0.0)
    assert sent[0] == pytest.approx(asked, rel=1e-5)
    report = robot.guard.report()
    assert report.refused == ({"stale": 1} if hiccup == "stale" else {})
    assert not report.latched


def test_a_long_pause_allows_no_jump(guarded: Any) -> None:
    """After an hour the first step is that of two periods."""
    robot = guarded(rates={"velocity": 1.0}, state=REST)
    robot.ask([0, 0, 0])
    np.testing.assert_allclose(robot.ask([0.9, 0, 0], after=3600.0)[0], 0.2, rtol=1e-6)
    np.testing.assert_allclose(robot.ask([0.9, 0, 0])[0], 0.3, rtol=1e-6)


def test_a_clock_that_is_set_back_allows_no_step(guarded: Any) -> None:
    """A simulation that starts again sets it back: nothing moves in that tick, and all goes on in the next."""
    robot = guarded(rates={"velocity": 1.0}, state=REST)
    robot.ask([0.05, 0, 0])
    np.testing.assert_allclose(robot.ask([0.2, 0, 0], after=-500.0)[0], 0.05)
    np.testing.assert_allclose(robot.ask([0.15, 0, 0])[0], 0.15)


def test_the_first_action_starts_from_the_state_of_the_robot(guarded: Any) -> None:
    """Also after `rearm`, from a state that is given or from what was sent last. Without a state it is refused."""
    robot = guarded(rates={"velocity": 1.0}, state=[0.5, 0.5, 0])
    np.testing.assert_allclose(robot.ask([-0.9, 0.55, 0]), [0.4, 0.55, 0], rtol=1e-6)
    for _ in range(10):
        robot.ask([math.nan, 0, 0])
    assert robot.guard.report().latched
    robot.guard.rearm()
    np.testing.assert_allclose(robot.ask([-0.9, 0.55, 0]), [0.3, 0.55, 0], rtol=1e-6)
    robot.guard.rearm([-0.8, 0.0, 0.0])
    np.testing.assert_allclose(robot.ask([-0.9, 0.55, 0]), [-0.9, 0.1, 0], rtol=1e-6)
    for state in ([0, 0], [0, 0, math.nan]):
        with pytest.raises(InputError, match="3 finite numbers are wanted"):
            robot.guard.rearm(state)
    with pytest.raises(InputError, match="rates are given without a state"):
        guarded(rates={"velocity": 1.0})


def test_a_state_is_what_is_held_before_the_first_action(guarded: Any) -> None:
    """An arm stays where it is measured, and does not go to zero."""
    np.testing.assert_array_equal(guarded(state=[0.25, 0, 1.0]).ask([math.nan, 0, 0]), [0.25, 0, 1.0])


def test_an_angle_goes_the_short_way_round(guarded: Any) -> None:
    """3.13 to -3.13 rad is a step of 0.02; without `wraps` it is a jump. What overshoots is turned, not clipped."""
    robot = guarded(HEADING, rates={"heading": 0.5}, state=[3.10])
    for angle in (3.13, -3.13, 3.14):
        np.testing.assert_allclose(robot.ask([angle]), [angle], rtol=1e-6)
    np.testing.assert_allclose(robot.ask([3.14 + 0.04]), [3.18 - 2 * math.pi], rtol=1e-5)
    report = robot.guard.report()
    assert (report.passed, report.clipped, report.slowed, report.refused) == (4, 1, 0, {})
    straight = (Field(name="heading", shape=(1,), unit="rad", low=-math.pi, high=math.pi),)
    plain = guarded(straight, rates={"heading": 0.5}, state=[3.10])
    plain.ask([3.13])
    plain.ask([-3.13])
    assert plain.guard.report().refused == {"rate": 1}


def test_an_angle_far_away_is_reached_through_the_end_of_its_bounds(guarded: Any) -> None:
    """From 3.0 to -3.0 rad what is sent never passes zero, and stays inside the bounds."""
    robot = guarded(HEADING, rates={"heading": 0.5}, state=[3.0])
    way = [float(robot.ask([-3.0])[0]) for _ in range(8)]
    np.testing.assert_allclose(way[:3], [3.05, 3.1, 3.15 - 2 * math.pi], rtol=1e-5)
    assert way[-1] == pytest.approx(-3.0)
    assert max(map(abs, way)) <= math.pi


@pytest.mark.parametrize(("low", "high", "asked", "sent"), [(-math.inf, 10, 11, -349), (-10, math.inf, -11, 349)])
def test_an_angle_with_one_bound_is_turned_back_inside(
    guarded: Any, low: float, high: float, asked: float, sent: float
) -> None:
    """The other bound is infinite, and must not enter the sum."""
    cable = Field(name="cable", shape=(1,), unit="deg", low=low, high=high, wraps=360)
    robot = guarded((cable,), state=[asked])
    assert robot.ask([0], age=9)[0] == sent  # stale, so the state is held
    assert robot.ask([asked])[0] == sent


def test_a_rate_limits_the_fallback_too(guarded: Any) -> None:
    """`zero` from 0.5 m/s takes two periods at 3 m/s²."""
    robot = guarded(fallback="zero", rates={"velocity": 3.0}, state=GOOD)
    np.testing.assert_allclose(robot.ask([9, 0, 0]), [0.2, -0.2, 0], rtol=1e-5)
    np.testing.assert_allclose(robot.ask([9, 0, 0]), REST)
