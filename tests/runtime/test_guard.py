"""The guards: which updates may act, which actions are sent, what acts instead, and that each refusal is counted."""

import math
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msr_runtime import ActionGuard, AdaptiveModel, Field, InputError, UpdateGuard
from msr_runtime.guard import HeldOut, Refusal, Trip

FIELDS = (
    Field(name="velocity", shape=(2,), unit="m/s", low=-1.0, high=1.0),
    Field(name="grip", shape=(1,), unit="N", low=-5.0, high=math.inf),
)
GOOD = np.array([0.5, -0.5, 2.0], np.float32)
V0, V = np.array([[3.0, 4.0]], np.float32), np.array([[3.0, 9.0]], np.float32)


def now() -> float:
    """The time of a fresh observation."""
    return time.monotonic()


def guard(**options: Any) -> ActionGuard:
    """A guard at 10 Hz that trusts observations for a minute."""
    settings: dict[str, Any] = {"hz": 10.0, "max_age": 60.0}
    return ActionGuard(FIELDS, **(settings | options))


@pytest.mark.parametrize(
    ("trust", "losses", "held_out", "refusal"),
    [
        (1.0, (1.0, 0.5), None, None),
        (1.0, (1.0, 2.0), None, None),
        (0.99, (1.0, 0.5), None, Refusal.TRUST_REGION),
        (math.inf, (1.0, 0.5), None, None),
        (1.0, (1.0, math.nan), None, Refusal.NOT_FINITE),
        (1.0, (math.inf, 1.0), None, Refusal.NOT_FINITE),
        (1.0, (1.0, 0.5), HeldOut(1.0, 1.0), None),
        (1.0, (1.0, 0.5), HeldOut(1.0, 1.01), Refusal.HELD_OUT),
        (1.0, (1.0, 0.5), HeldOut(1.0, math.inf), Refusal.NOT_FINITE),
        (1.0, (1.0, 0.5), HeldOut(math.nan, 1.0), None),
    ],
)
def test_an_update_is_refused_for_a_named_reason(
    trust: float, losses: tuple[float, float], held_out: HeldOut | None, refusal: Refusal | None
) -> None:
    """V is one norm of v0 away from it: at the edge of the trust region it passes."""
    objection = UpdateGuard(trust).judge(V0, V, losses, held_out)
    assert (objection.refusal if objection else None) == refusal


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_filter_parameters_that_are_not_finite_are_refused(bad: float) -> None:
    """Whatever the trust region."""
    objection = UpdateGuard(math.inf).judge(V0, np.array([[bad, 1.0]], np.float32), (1.0, 1.0))
    assert objection is not None
    assert objection.refusal is Refusal.NOT_FINITE


def test_no_distance_is_relative_to_zero() -> None:
    """The error names the way out, which works."""
    with pytest.raises(InputError, match="trust=inf"):
        UpdateGuard().judge(0 * V0, V, (1.0, 1.0))
    assert UpdateGuard(math.inf).judge(0 * V0, V, (1.0, 1.0)) is None


@pytest.mark.parametrize("trust", [0.0, -1.0, math.nan])
def test_a_trust_region_has_a_size(trust: float) -> None:
    """Zero, negative and NaN are refused."""
    with pytest.raises(InputError, match="trust is"):
        UpdateGuard(trust)


def test_a_refused_update_leaves_the_old_weights_acting(bundle_path: Any, linear: Any) -> None:
    """The result names the reason and the figures; the same update acts without the guard."""
    model, rng = AdaptiveModel.load(bundle_path), np.random.default_rng(0)
    x = rng.standard_normal((6, 3)).astype(np.float32)
    y, other = linear.predict(linear.v0 + 0.5, x), linear.predict(linear.v0 - 5, x)
    held_out = (x, linear.predict(linear.v0, x))
    result = model.adapt(x, y, held_out=held_out, guard=UpdateGuard())
    assert not result.accepted
    assert result.refusal is Refusal.HELD_OUT
    assert result.reason
    assert "would rise" in result.reason
    assert result.held_out
    assert result.held_out.before == pytest.approx(0, abs=1e-9)
    assert result.held_out.after == pytest.approx(linear.step(linear.adapt(x, y, 3), *held_out)[1], rel=1e-4)
    far = model.adapt(x, other, guard=UpdateGuard(trust=1e-3))
    assert far.refusal is Refusal.TRUST_REGION
    assert far.reason
    assert "0.001 is trusted" in far.reason
    np.testing.assert_allclose(model.v, linear.v0, rtol=1e-6)
    assert model.adapt(x, y, held_out=held_out).accepted
    np.testing.assert_allclose(model.v, linear.adapt(x, y, 3), rtol=1e-4)


def test_a_good_action_is_sent_as_it_is() -> None:
    """Bounds are inside, lists and float64 are taken, and nothing is counted as refused."""
    check = guard()
    for action in (GOOD, GOOD.tolist(), GOOD.astype(np.float64), [1.0, -1.0, -5.0], [-1.0, 1.0, 1e30]):
        sent = check(action, now())
        assert sent.dtype == np.float32
        np.testing.assert_array_equal(sent, np.asarray(action, np.float32))
    assert check.report().passed == 5
    assert check.report().refused == {}
    assert "5 sent, refused: none" in str(check.report())


@pytest.mark.parametrize(
    ("action", "age", "trip"),
    [
        ([math.nan, 0, 0], 0, Trip.NOT_FINITE),
        ([0, 0, math.inf], 0, Trip.NOT_FINITE),
        ([0, 0, 1e300], 0, Trip.NOT_FINITE),
        ([1.01, 0, 0], 0, Trip.BOUNDS),
        ([0, -1e30, 0], 0, Trip.BOUNDS),
        ([0, 0, -5.1], 0, Trip.BOUNDS),
        (GOOD, 61, Trip.STALE),
        (GOOD, -1e9, Trip.STALE),
        (GOOD, math.nan, Trip.STALE),
    ],
)
def test_a_bad_action_is_held_back_and_counted(action: Any, age: float, trip: Trip) -> None:
    """What was sent last is sent again, and good actions pass again afterwards."""
    check = guard()
    check(GOOD, now())
    np.testing.assert_array_equal(check(action, now() - age), GOOD)
    assert check.report().refused == {str(trip): 1}
    np.testing.assert_array_equal(check(GOOD / 2, now()), GOOD / 2)
    assert check.report().passed == 2
    assert not check.report().latched


def test_a_rate_limits_its_own_field_from_what_was_sent() -> None:
    """At 10 Hz, 2 m/s² is 0.2 m/s a tick: kept exactly it passes, beyond it is refused until it comes back."""
    check = guard(rates={"velocity": 2.0})
    check([0.0, 0.0, 0.0], now())
    for step in range(1, 6):
        np.testing.assert_allclose(check([0.2 * step, 0.0, 100.0 * step], now()), [0.2 * step, 0.0, 100.0 * step])
    for _ in range(3):
        np.testing.assert_allclose(check([0.7, 0.0, 0.0], now()), [1.0, 0.0, 500.0])
    np.testing.assert_allclose(check([0.9, 0.1, 0.0], now()), [0.9, 0.1, 0.0])
    assert check.report().refused == {"rate": 3}


def test_it_latches_until_it_is_rearmed() -> None:
    """Trips count in a row or not; latched, good actions are refused too, and rearming lets one of any size through."""
    check = guard(latch_after=3, rates={"velocity": 1.0}, fallback="zero")
    check(GOOD, now())
    for action in ([9, 0, 0], [0, 0, 0], [9, 0, 0], [0, 0, 0], [9, 0, 0]):
        check(action, now())
    assert check.report().latched
    np.testing.assert_array_equal(check([0.0, 0.0, 1.0], now()), np.zeros(3))
    report = check.report()
    assert report.refused == {"bounds": 3, "latched": 1}
    assert report.passed == 3
    assert "latched" in str(report)
    check.rearm()
    np.testing.assert_array_equal(check(GOOD, now()), GOOD)
    check([9, 0, 0], now())
    assert not check.report().latched


def test_the_fallbacks_act() -> None:
    """Before anything was sent, hold is what is nearest to zero; a callable is cut to the bounds and sees the last."""
    raised = (Field(name="height", shape=(2,), unit="m", low=0.5, high=1.0),)
    hold = ActionGuard(raised, hz=10, max_age=1)
    np.testing.assert_array_equal(hold([math.nan, 0.6], now()), [0.5, 0.5])
    np.testing.assert_array_equal(guard(fallback="zero")([9, 0, 0], now()), np.zeros(3))
    seen = []

    def backup(last: np.ndarray) -> list[float]:
        seen.append(last)
        return [last[0] + 5, 0.25, -9]

    check = guard(fallback=backup)
    check(GOOD, now())
    np.testing.assert_array_equal(check([9, 0, 0], now()), [1.0, 0.25, -5.0])
    np.testing.assert_array_equal(seen[0], GOOD)


def test_a_fallback_that_fails_never_reaches_the_motors() -> None:
    """A NaN of the callable is held back like one of the network; a wrong shape is a mistake in the program."""
    check = guard(fallback=lambda last: last * np.nan)
    check(GOOD, now())
    np.testing.assert_array_equal(check([9, 0, 0], now()), GOOD)
    with pytest.raises(InputError, match="the fallback's action has shape"):
        guard(fallback=lambda last: last[:2])([9, 0, 0], now())


@given(st.lists(st.floats(width=32), min_size=3, max_size=3), st.sampled_from(["hold", "zero"]))
def test_whatever_is_asked_what_is_sent_is_finite_and_inside(action: list[float], fallback: Any) -> None:
    """Also right after another wild action."""
    check = guard(fallback=fallback, latch_after=2)
    for asked in (action, action[::-1], action):
        sent = check(asked, now())
        assert np.isfinite(sent).all()
        assert (np.abs(sent[:2]) <= 1).all()
        assert sent[2] >= -5
    report = check.report()
    assert report.passed + sum(report.refused.values()) == 3


def test_what_was_returned_belongs_to_the_caller() -> None:
    """Writing into an action, sent or held, changes nothing in the guard."""
    check = guard()
    action = GOOD.copy()
    check(action, now())[...] = 7
    action[...] = 7
    held = check([9, 0, 0], now())
    np.testing.assert_array_equal(held, GOOD)
    held[...] = 7
    np.testing.assert_array_equal(check([9, 0, 0], now()), GOOD)


def test_rearming_from_another_thread_loses_no_count() -> None:
    """One thread acts, another rearms and reads: every action is in the report."""
    check, stop = guard(latch_after=2), threading.Event()

    def rearm() -> None:
        while not stop.is_set():
            check.rearm()
            check.report()

    thread = threading.Thread(target=rearm)
    thread.start()
    try:
        for tick in range(3000):
            check(GOOD if tick % 2 else [9, 0, 0], now())
    finally:
        stop.set()
        thread.join()
    report = check.report()
    assert report.passed + sum(report.refused.values()) == 3000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hz": 0}, "hz is 0"),
        ({"max_age": math.nan}, "max_age is nan"),
        ({"latch_after": 0}, "latch_after is 0"),
        ({"rates": {"velocity": -1}}, "velocity is -1"),
        ({"rates": {"torque": 1}}, r"a rate for 'torque', but the fields are \['velocity', 'grip'\]"),
    ],
)
def test_a_guard_that_could_not_guard_is_refused(options: dict, message: str) -> None:
    """Numbers out of range and rates of no field are errors at once."""
    with pytest.raises(InputError, match=message):
        guard(**options)


def test_zero_must_be_an_action_to_fall_back_to_it() -> None:
    """A field that never is zero needs another fallback."""
    with pytest.raises(InputError, match="zero is outside"):
        ActionGuard((Field(name="height", shape=(1,), unit="m", low=0.5, high=1.0),), 10, 1, fallback="zero")


def test_an_action_of_another_shape_is_a_mistake_in_the_program() -> None:
    """It is raised, and not counted."""
    with pytest.raises(InputError, match=r"the action has shape \(2,\), but the fields make \(3,\)"):
        guard()([0, 0], now())
