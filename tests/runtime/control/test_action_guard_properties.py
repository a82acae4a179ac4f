"""What holds for every sequence of actions, ages, pauses and fallbacks that an action guard may meet."""

import math
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from msr_runtime import ActionGuard, Field

HZ = 50.0
RATE = 3.0
TURN = 2 * math.pi
FIELDS = (
    Field(name="speed", shape=(2,), unit="m/s", low=-0.1, high=0.7, kind="velocity"),
    Field(name="heading", shape=(1,), unit="rad", low=-math.pi, high=math.pi, wraps=TURN),
    Field(name="lift", shape=(1,), unit="m", low=0.3, high=math.inf),
)
LOW = np.array([-0.1, -0.1, -math.pi, 0.3])
HIGH = np.array([0.7, 0.7, math.pi, math.inf])
STATE = [0.0, 0.3, 3.0, 1.0]
ROUNDING = 1e-5  # of up to 60 moves to float32

quick = settings(deadline=None, max_examples=60)  # no test may depend on the machine's speed

near = st.tuples(st.floats(-0.3, 0.9), st.floats(-0.3, 0.9), st.floats(-4, 4), st.floats(0, 3))
wild = st.tuples(*[st.floats()] * 4)
actions = st.one_of(near, near, wild)
pauses = st.one_of(st.just(1 / HZ), st.floats(0, 3 / HZ), st.sampled_from([0.0, 1e-6, 7.0, -1.0]))
ticks = st.lists(st.tuples(actions, pauses, st.sampled_from([0.0, 0.0, 0.0, 9.0])), min_size=1, max_size=60)


def _raise(_: np.ndarray) -> Any:
    raise RuntimeError


fallbacks = st.sampled_from(["hold", lambda last: last[::-1] * 3, lambda last: last + np.nan, _raise])


def drive(sequence: list, **options: Any) -> tuple[np.ndarray, np.ndarray, list[bool], ActionGuard]:
    """Ask for every action of a sequence; return what was sent, when, whether it had latched, and the guard."""
    now, sent, times, latched = 0.0, [], [], []
    guard = ActionGuard(FIELDS, HZ, 1.0, state=STATE, clock=lambda: now, **options)
    for action, pause, age in sequence:
        now += pause
        sent.append(guard(action, now - age))
        times.append(now)
        latched.append(guard.report().latched)
    return np.array(sent), np.array(times), latched, guard


@quick
@given(ticks, fallbacks, st.sampled_from([None, {"speed": RATE, "heading": RATE}]), st.floats(0, 2))
def test_what_is_sent_is_finite_float32_and_inside(sequence: list, fallback: Any, rates: Any, margin: float) -> None:
    """By float64 comparison, whatever was asked and whatever the fallback returned; and every call is counted."""
    sent, _, _, guard = drive(sequence, fallback=fallback, rates=rates, margin=margin, latch_after=4)
    assert sent.dtype == np.float32
    assert np.isfinite(sent).all()
    assert (sent.astype(np.float64) >= LOW).all()
    assert (sent.astype(np.float64) <= HIGH).all()
    report = guard.report()
    assert report.passed + sum(report.refused.values()) == len(sequence)
    assert max(report.clipped, report.slowed) <= report.passed


@quick
@given(ticks, fallbacks)
def test_no_span_of_time_moves_further_than_its_rate(sequence: list, fallback: Any) -> None:
    """The sum of all moves in a span of T seconds is at most rate × (T + the two periods that a pause counts)."""
    sent, times, _, _ = drive(sequence, fallback=fallback, rates={"speed": RATE, "heading": RATE}, latch_after=4)
    moves = np.diff(np.vstack([np.array(STATE, np.float32), sent])[:, :3].astype(np.float64), axis=0)
    moves[:, 2] = np.mod(moves[:, 2] + math.pi, TURN) - math.pi
    moved = np.cumsum(np.abs(moves), axis=0)
    passed = np.cumsum(np.maximum(np.diff(times, prepend=0.0), 0.0))
    for first in range(len(times)):
        span = passed[first:, None] - passed[first]  # a clock that is set back gives no time away
        before = moved[first - 1] if first else 0.0
        assert (moved[first:] - before <= RATE * (span + 2 / HZ) + ROUNDING).all()


@quick
@given(ticks, st.integers(1, 5), st.floats(0.01, 0.5))
def test_a_latch_needs_its_trips_within_the_window(sequence: list, trips: int, window: float) -> None:
    """Counted here anew, from what the report said after each tick. The guard latches then, and only then."""
    assume(trips - 1 < window * HZ)  # else the window is refused
    forward = [(action, max(pause, 0.0), age) for action, pause, age in sequence]
    now, ran, times, before = 0.0, 0.0, [], 0
    guard = ActionGuard(FIELDS, HZ, 1.0, state=STATE, clock=lambda: now, latch_after=trips, window=window)
    for action, pause, age in forward:
        now += pause
        ran += min(pause, 2 / HZ)
        guard(action, now - age)
        report = guard.report()
        tripped, before = sum(report.refused.values()) > before, sum(report.refused.values())
        times += [ran] * tripped
        full = tripped and len(times) >= trips and ran - times[-trips] <= window
        assert report.latched == full
        if full:
            break


@quick
@given(near, st.floats(0.2 / HZ, 2 / HZ), st.sampled_from([None, {"speed": 0.25}]), st.sampled_from(["hold", _raise]))
def test_after_the_latch_velocities_go_to_zero_in_time(first: tuple, pause: float, rates: Any, fallback: Any) -> None:
    """Never up again on the way, in 1 s or at the rate; what is no velocity stays."""
    start = [(first, 1.0, 0.0), ((math.nan,) * 4, pause, 0.0)]
    stop = 0.7 / 0.25 if rates else 1.0
    after = [((0.1, 0.1, 1.0, 1.0), pause, 0.0)] * (math.ceil(stop / pause) + 1)
    sent, times, latched, _ = drive(start + after, rates=rates, fallback=fallback, latch_after=1)
    assert latched[1:] == [True] * (len(sent) - 1)
    speeds = np.abs(sent[:, :2])
    assert (np.diff(speeds, axis=0) <= 0).all()
    assert (speeds[times - times[0] >= stop + 2 * pause] == 0).all()
    assert (speeds[-1] == 0).all()
    np.testing.assert_array_equal(sent[:, 2:], np.broadcast_to(sent[0, 2:], sent[:, 2:].shape))
