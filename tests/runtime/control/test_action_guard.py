"""The action guard: which actions it sends, what acts in place of the others, and that every refusal is counted."""

import math
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from msr_runtime import ActionGuard, Field, InputError
from msr_runtime.control.action_guard import Trip

FIELDS = (
    Field(name="velocity", shape=(2,), unit="m/s", low=-1.0, high=1.0),
    Field(name="grip", shape=(1,), unit="N", low=-5.0, high=math.inf),
)
GOOD = np.array([0.5, -0.5, 2.0], np.float32)
MOVING = (
    Field(name="velocity", shape=(2,), unit="m/s", low=-1.0, high=1.0, kind="velocity"),
    Field(name="grip", shape=(1,), unit="N", low=-5.0, high=math.inf),
)
HEADING = (Field(name="heading", shape=(1,), unit="rad", low=-math.pi, high=math.pi, wraps=2 * math.pi),)
REST = np.zeros(3)


class Guarded:
    """A guard at 10 Hz on a clock that stands still until a test turns it."""

    def __init__(self, fields: tuple[Field, ...] = FIELDS, **options: Any) -> None:
        settings: dict[str, Any] = {"hz": 10.0, "max_age": 0.15, "clock": lambda: self.now}
        self.now = 1000.0
        self.guard = ActionGuard(fields, **(settings | options))

    def ask(self, action: Any, after: float = 0.1, age: float = 0.0) -> np.ndarray:
        """Ask for `action` at the next tick, `after` seconds later; its observation is `age` old."""
        self.now += after
        return self.guard(action, self.now - age)


def test_a_good_action_is_sent_as_it_is() -> None:
    """An action on a bound passes, as do lists and float64, and nothing counts as refused."""
    robot = Guarded()
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
def test_a_bad_action_is_held_back_and_counted(action: Any, age: float, trip: Trip) -> None:
    """The last action sent is repeated, and good actions pass again afterwards."""
    robot = Guarded()
    robot.ask(GOOD)
    held = robot.ask(action, age=age)
    np.testing.assert_array_equal(held, GOOD)
    assert held.dtype == np.float32
    assert robot.guard.report().refused == {str(trip): 1}
    np.testing.assert_array_equal(robot.ask(GOOD / 2), GOOD / 2)
    assert robot.guard.report().passed == 2
    assert not robot.guard.report().latched


def test_a_network_that_overshoots_its_bounds_by_little_is_clipped() -> None:
    """By a tenth of the range it is clipped and counted, by more it trips; an infinite range has no margin."""
    robot = Guarded()
    for _ in range(30):
        np.testing.assert_array_equal(robot.ask([1.19, -1.19, 0]), [1, -1, 0])
    report = robot.guard.report()
    assert (report.passed, report.clipped, report.refused) == (30, 30, {})
    assert str(report) == "actions   30 sent, 30 clipped, refused: none"
    np.testing.assert_array_equal(Guarded(margin=0.0).ask([1.01, 0, 0]), REST)
    np.testing.assert_array_equal(Guarded(margin=0.5).ask([1.9, 0, 0]), [1, 0, 0])


def test_no_rounding_exceeds_a_bound() -> None:
    """float32 rounds 0.1 up. What is sent is below 0.1; no overshoot is counted; no fallback gets around it."""
    tenth = (Field(name="speed", shape=(2,), unit="m/s", low=-0.1, high=0.1),)
    for margin in (0.0, 0.1):
        robot = Guarded(tenth, margin=margin)
        assert float(np.float32(0.1)) > 0.1
        sent = robot.ask(np.array([0.1, -0.1], np.float32))
        assert np.abs(sent.astype(np.float64)).max() <= 0.1
        np.testing.assert_allclose(sent, [0.1, -0.1])
        assert (robot.guard.report().passed, robot.guard.report().clipped) == (1, 0)
    robot = Guarded(tenth, fallback=lambda _: np.array([0.1, 7.0]))
    sent = robot.ask([math.nan, 0])
    assert sent.dtype == np.float32
    assert np.abs(sent.astype(np.float64)).max() <= 0.1


def test_a_rate_is_per_second_of_the_clock() -> None:
    """2 m/s² let 0.2 m/s pass in 0.1 s and in a hundred calls within 0.1 s; a value without a rate is free."""
    robot = Guarded(rates={"velocity": 2.0}, state=REST)
    for step in range(1, 6):
        action = [0.199 * step, 0.0, 100.0 * step]
        np.testing.assert_allclose(robot.ask(action), action, rtol=1e-6)
    assert robot.guard.report().slowed == 0
    busy = Guarded(rates={"velocity": 2.0}, state=REST)
    for _ in range(100):
        sent = busy.ask([0.2, 0, 0], after=4e-6)
    assert sent[0] == pytest.approx(2 * 100 * 4e-6, rel=1e-4)
    assert busy.guard.report().slowed == busy.guard.report().passed == 100


def test_a_jump_is_refused_and_the_robot_gets_to_the_new_value_at_the_rate() -> None:
    """The network's step is a fault. If it then stays there, what is sent follows at the rate, without another one."""
    robot = Guarded(rates={"velocity": 2.0}, state=REST)
    robot.ask([0, 0, 0])
    np.testing.assert_array_equal(robot.ask([0.9, 0, 0]), REST)
    way = [robot.ask([0.9, 0, 0])[0] for _ in range(6)]
    np.testing.assert_allclose(way, [0.2, 0.4, 0.6, 0.8, 0.9, 0.9], rtol=1e-5)
    report = robot.guard.report()
    assert (report.refused, report.slowed) == ({"rate": 1}, 4)
    assert str(report) == "actions   7 sent, 4 slowed, refused: 1 rate"


def test_a_network_that_jumps_to_and_fro_latches() -> None:
    """Every answer is far from the one before it, wherever the robot is."""
    robot = Guarded(MOVING, rates={"velocity": 2.0}, state=REST)
    for tick in range(12):
        sent = robot.ask([0.9 if tick % 2 else -0.9, 0, 0])
    assert robot.guard.report().refused == {"rate": 10, "latched": 1}
    assert abs(sent[0]) <= 0.2


@pytest.mark.parametrize("hiccup", ["skipped", "stale", "late", "three skipped", "half a second"])
def test_a_hiccup_of_the_loop_is_no_fault_of_the_network(hiccup: str) -> None:
    """At 60 % of the rate there is no jump in any of them, and the robot is soon where it would have been."""
    robot = Guarded(rates={"velocity": 1.0}, state=REST)
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


def test_a_long_pause_allows_no_jump() -> None:
    """After an hour the first step is that of two periods."""
    robot = Guarded(rates={"velocity": 1.0}, state=REST)
    robot.ask([0, 0, 0])
    np.testing.assert_allclose(robot.ask([0.9, 0, 0], after=3600.0)[0], 0.2, rtol=1e-6)
    np.testing.assert_allclose(robot.ask([0.9, 0, 0])[0], 0.3, rtol=1e-6)


def test_a_clock_that_is_set_back_allows_no_step() -> None:
    """A simulation that starts again sets it back: nothing moves in that tick, and all goes on in the next."""
    robot = Guarded(rates={"velocity": 1.0}, state=REST)
    robot.ask([0.05, 0, 0])
    np.testing.assert_allclose(robot.ask([0.2, 0, 0], after=-500.0)[0], 0.05)
    np.testing.assert_allclose(robot.ask([0.15, 0, 0])[0], 0.15)


def test_the_first_action_starts_from_the_state_of_the_robot() -> None:
    """Also after `rearm`, from a state that is given or from what was sent last. Without a state it is refused."""
    robot = Guarded(rates={"velocity": 1.0}, state=[0.5, 0.5, 0])
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
        Guarded(rates={"velocity": 1.0})


def test_a_state_is_what_is_held_before_the_first_action() -> None:
    """An arm stays where it is measured, and does not go to zero."""
    np.testing.assert_array_equal(Guarded(state=[0.25, 0, 1.0]).ask([math.nan, 0, 0]), [0.25, 0, 1.0])


def test_an_angle_goes_the_short_way_round() -> None:
    """3.13 to -3.13 rad is a step of 0.02; without `wraps` it is a jump. What overshoots is turned, not clipped."""
    robot = Guarded(HEADING, rates={"heading": 0.5}, state=[3.10])
    for angle in (3.13, -3.13, 3.14):
        np.testing.assert_allclose(robot.ask([angle]), [angle], rtol=1e-6)
    np.testing.assert_allclose(robot.ask([3.14 + 0.04]), [3.18 - 2 * math.pi], rtol=1e-5)
    report = robot.guard.report()
    assert (report.passed, report.clipped, report.slowed, report.refused) == (4, 1, 0, {})
    straight = (Field(name="heading", shape=(1,), unit="rad", low=-math.pi, high=math.pi),)
    plain = Guarded(straight, rates={"heading": 0.5}, state=[3.10])
    plain.ask([3.13])
    plain.ask([-3.13])
    assert plain.guard.report().refused == {"rate": 1}


def test_an_angle_far_away_is_reached_through_the_end_of_its_bounds() -> None:
    """From 3.0 to -3.0 rad what is sent never passes zero, and stays inside the bounds."""
    robot = Guarded(HEADING, rates={"heading": 0.5}, state=[3.0])
    way = [float(robot.ask([-3.0])[0]) for _ in range(8)]
    np.testing.assert_allclose(way[:3], [3.05, 3.1, 3.15 - 2 * math.pi], rtol=1e-5)
    assert way[-1] == pytest.approx(-3.0)
    assert max(map(abs, way)) <= math.pi


@pytest.mark.parametrize("latch_after", [1, 3])
def test_it_latches_until_it_is_rearmed(latch_after: int) -> None:
    """Refusals count in a row or not. A latched guard refuses good actions too, until `rearm`."""
    robot = Guarded(latch_after=latch_after)
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
def test_isolated_refusals_are_forgotten(hz: float) -> None:
    """Twelve stale ticks among 12,000 latch nothing; ten among a hundred do."""
    robot = Guarded(hz=hz, max_age=1.0)
    for tick in range(12_000):
        robot.ask(GOOD, after=1 / hz, age=2.0 if tick % 1000 == 0 else 0.0)
    assert robot.guard.report().refused == {"stale": 12}
    assert not robot.guard.report().latched
    for tick in range(100):
        robot.ask(GOOD, after=1 / hz, age=2.0 if tick % 10 == 0 else 0.0)
    assert robot.guard.report().latched


def test_the_window_can_be_given() -> None:
    """Three refusals in 5 s latch, three in 6 s do not; without an end, all count."""
    for window, pause, latched in ((5.1, 25, True), (5.1, 30, False), (math.inf, 1000, True)):
        robot = Guarded(latch_after=3, window=window)
        for tick in range(2 * pause + 1):
            robot.ask([9, 0, 0] if tick % pause == 0 else GOOD)
        assert robot.guard.report().latched is latched


@pytest.mark.parametrize("latch_after", [10, 200])
def test_a_loop_that_hardly_runs_latches_too(latch_after: int) -> None:
    """An overloaded machine calls the guard once per second. Refusals in a row are a fault all the same."""
    robot = Guarded(latch_after=latch_after)
    for _ in range(latch_after):
        robot.ask([9, 0, 0], after=1.0)
    assert robot.guard.report().latched


def test_a_window_in_which_it_never_latches_is_refused() -> None:
    """At 10 Hz, eleven refusals take a second."""
    with pytest.raises(InputError, match="would never latch"):
        Guarded(latch_after=11, window=1.0)
    robot = Guarded(latch_after=10, window=1.0)
    for _ in range(10):
        robot.ask([9, 0, 0])
    assert robot.guard.report().latched


@pytest.mark.parametrize(("low", "high", "asked", "sent"), [(-math.inf, 10, 11, -349), (-10, math.inf, -11, 349)])
def test_an_angle_with_one_bound_is_turned_back_inside(low: float, high: float, asked: float, sent: float) -> None:
    """The other bound is infinite, and must not enter the sum."""
    cable = Field(name="cable", shape=(1,), unit="deg", low=low, high=high, wraps=360)
    robot = Guarded((cable,), state=[asked])
    assert robot.ask([0], age=9)[0] == sent  # stale, so the state is held
    assert robot.ask([asked])[0] == sent


def test_hold_is_not_the_last_word_for_a_moving_robot() -> None:
    """Once latched, a velocity goes to zero in 1 s from its largest value, and straight; a position stays."""
    fields = (MOVING[0], Field(name="lift", shape=(1,), unit="m", low=0.0, high=2.0, kind="position"))
    robot = Guarded(fields, latch_after=3)
    robot.ask([0.8, -0.4, 1.5])
    for _ in range(2):
        np.testing.assert_allclose(robot.ask([math.nan, 0, 0]), [0.8, -0.4, 1.5])
    np.testing.assert_allclose(robot.ask([math.nan, 0, 0]), [0.7, -0.35, 1.5], rtol=1e-6)  # it brakes at once
    way = np.array([robot.ask(REST) for _ in range(8)])
    np.testing.assert_allclose(way[:, 0], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(way[:, 1], -way[:, 0] / 2, atol=1e-6)
    np.testing.assert_array_equal(way[-1], [0, 0, 1.5])
    late = Guarded(fields, latch_after=1)
    late.ask([0.8, -0.4, 1.5])
    np.testing.assert_array_equal(late.ask([math.nan, 0, 0], after=5.0), [0, 0, 1.5])  # the time is up


def test_a_rate_says_how_fast_to_stop() -> None:
    """0.4 m/s² stops 0.8 m/s in 2 s; an effort falls too, as one that is held accelerates for ever."""
    grip = Field(name="grip", shape=(1,), unit="N", low=-5.0, high=math.inf, kind="effort")
    robot = Guarded(
        (MOVING[0], grip),
        rates={"velocity": 0.4, "grip": 10.0},
        state=[0.8, 0, 2],
        latch_after=1,
    )
    way = np.array([robot.ask([math.nan, 0, 0]) for _ in range(21)])
    np.testing.assert_allclose(way[:, 0], np.maximum(0.8 - 0.04 * np.arange(1, 22), 0), atol=1e-5)
    np.testing.assert_allclose(way[:4, 2], [1, 0, 0, 0], atol=1e-5)


def test_a_field_that_may_not_be_zero_stops_at_its_slowest() -> None:
    """An aircraft keeps its least airspeed."""
    airspeed = (Field(name="airspeed", shape=(1,), unit="m/s", low=12.0, high=30.0, kind="velocity"),)
    robot = Guarded(airspeed, state=[20], latch_after=1)
    np.testing.assert_allclose([robot.ask([math.nan])[0] for _ in range(4)], [17, 14, 12, 12], rtol=1e-6)


def test_the_fallbacks_act() -> None:
    """`hold` begins nearest to zero; the result of a function is clipped to the bounds, and it gets the last action."""
    raised = (Field(name="height", shape=(2,), unit="m", low=0.5, high=1.0),)
    np.testing.assert_array_equal(Guarded(raised).ask([math.nan, 0.6]), [0.5, 0.5])
    np.testing.assert_array_equal(Guarded(fallback="zero").ask([9, 0, 0]), REST)
    seen = []

    def backup(last: np.ndarray) -> list[float]:
        seen.append(last)
        return [last[0] + 5, 0.25, -9]

    robot = Guarded(MOVING, fallback=backup, latch_after=2)
    robot.ask(GOOD)
    for _ in range(3):  # also once it has latched
        sent = robot.ask([9, 0, 0])
        np.testing.assert_array_equal(sent, [1.0, 0.25, -5.0])
        assert sent.dtype == seen[0].dtype == np.float32
    np.testing.assert_array_equal(seen[0], GOOD)


def test_a_rate_limits_the_fallback_too() -> None:
    """`zero` from 0.5 m/s takes two periods at 3 m/s²."""
    robot = Guarded(fallback="zero", rates={"velocity": 3.0}, state=GOOD)
    np.testing.assert_allclose(robot.ask([9, 0, 0]), [0.2, -0.2, 0], rtol=1e-5)
    np.testing.assert_allclose(robot.ask([9, 0, 0]), REST)


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
def test_a_fallback_that_fails_is_held_and_counted(result: Any, failure: str) -> None:
    """No error reaches the loop. Once latched, a robot whose fallback fails stops."""

    def backup(_: np.ndarray) -> Any:
        if result is ZeroDivisionError:
            raise result
        return result

    robot = Guarded(MOVING, fallback=backup, latch_after=3)
    robot.ask(GOOD)
    for _ in range(2):
        np.testing.assert_array_equal(robot.ask([9, 0, 0]), GOOD)
    report = robot.guard.report()
    assert report.fallback_failed == {failure: 2}
    assert str(report) == f"actions   1 sent, refused: 2 bounds; fallback failed: 2 {failure}"
    for _ in range(10):
        sent = robot.ask([9, 0, 0])
    np.testing.assert_array_equal(sent, [0, 0, 2])


def test_what_was_returned_belongs_to_the_caller() -> None:
    """Writing into an action that was sent or held changes nothing in the guard."""
    robot = Guarded()
    action = GOOD.copy()
    robot.ask(action)[...] = 7
    action[...] = 7
    held = robot.ask([9, 0, 0])
    np.testing.assert_array_equal(held, GOOD)
    held[...] = 7
    np.testing.assert_array_equal(robot.ask([9, 0, 0]), GOOD)


def test_rearming_from_another_thread_loses_no_count() -> None:
    """While one thread acts and another rearms and reports, every action is counted."""
    robot, stop = Guarded(latch_after=2), threading.Event()

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
def test_a_guard_that_could_not_guard_is_refused(options: dict, message: str) -> None:
    """Numbers out of range, names of no field and unknown words raise at once."""
    with pytest.raises(InputError, match=message):
        Guarded(**options)


def test_bounds_that_cannot_be_kept_are_refused() -> None:
    """Bounds without zero need another fallback than zero; bounds without a float32 need to be wider."""
    with pytest.raises(InputError, match="zero is outside"):
        Guarded((Field(name="height", shape=(1,), unit="m", low=0.5, high=1.0),), fallback="zero")
    with pytest.raises(InputError, match=r"its kind is effort, .* but nothing says how fast"):
        Guarded((Field(name="grip", shape=(1,), unit="N", low=-5.0, high=math.inf, kind="effort"),))
    with pytest.raises(InputError, match="no float32 lies between"):
        Guarded((Field(name="height", shape=(1,), unit="m", low=0.1, high=0.1 + 1e-12),))


@pytest.mark.parametrize("action", [[0, 0], [[0, 0, 0]], 0.0])
def test_an_action_of_another_shape_is_a_mistake_in_the_program(action: Iterable) -> None:
    """It raises and is not counted."""
    robot = Guarded()
    with pytest.raises(InputError, match=r"the fields make \(3,\)"):
        robot.ask(action)
    assert robot.guard.report().refused == {}


class Network:
    """A network that predicts `GOOD`, and refuses observations that are not finite."""

    def __call__(self, x: Any) -> np.ndarray:
        if not np.isfinite(x).all():
            raise InputError(f"x is {x}")
        return GOOD


def test_a_dead_observation_holds_and_latches_and_ends_no_loop() -> None:
    """The network refuses it, so there is no action: the guard holds, counts, says why, and stops the robot."""
    robot = Guarded(MOVING, latch_after=3)

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


def test_a_mistake_in_the_program_is_not_a_dead_observation() -> None:
    """Only what the network refuses stops the robot silently. Everything else is raised, for a `finally` to act."""
    robot = Guarded()

    def broken(_: Any) -> np.ndarray:
        raise KeyError("x")

    with pytest.raises(KeyError):
        robot.guard.act(broken, [0], robot.now)
    with pytest.raises(InputError, match=r"the fields make \(3,\)"):
        robot.guard.act(lambda _: np.zeros((1, 3), np.float32), [0], robot.now)


def test_a_masked_action_is_refused_by_name() -> None:
    """Its numbers below the mask were never meant."""
    with pytest.raises(InputError, match="the action is a masked array"):
        Guarded().ask(np.ma.masked_invalid([0.0, math.nan, 0.0]))
