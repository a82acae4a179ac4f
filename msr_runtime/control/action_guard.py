"""The action guard: the last check of every action before it is sent to the motors.

It is the black-box form of the Simplex architecture (Sha, "Using simplicity to control complexity", 2001): a learned
controller acts only while a check that was not learned agrees; otherwise a simple fallback acts.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from msr_runtime.arrays import all_finite, refuse_masked
from msr_runtime.control.action_bounds import ActionBounds
from msr_runtime.control.action_rates import LONGEST, ActionRates
from msr_runtime.control.stop_ramp import StopRamp
from msr_runtime.control.trip_window import TripWindow
from msr_runtime.errors import InputError
from msr_runtime.task import Array, Field, field_slices, width

_WINDOW = 100  # control periods in which refusals count towards the latch, unless `window` says otherwise
_MAY_BE_INFINITE = ("max_age", "window")  # without an end, nothing is too old

Fallback = Literal["hold", "zero"] | Callable[[Array], ArrayLike]
"""What acts in place of a refused action: the last action, zeros, or a function of the last action `(out,)`."""


class Trip(StrEnum):
    """Why an action was refused."""

    OBSERVATION = "observation"
    """There is no action: the network refused the observation, see `ActionGuard.act`."""
    NOT_FINITE = "not finite"
    """A value is NaN or infinite."""
    BOUNDS = "bounds"
    """A value is outside the bounds of its field by more than the margin."""
    RATE = "rate"
    """A value changes faster than the rate of its field allows."""
    STALE = "stale"
    """The observation is too old, or its time stamp lies in the future."""
    LATCHED = "latched"
    """The guard has latched: it refuses every action until `rearm`."""


@dataclass(frozen=True)
class GuardReport:
    """What an ActionGuard did. Every call counts either in `passed` or in `refused`. `print` shows it in one line."""

    passed: int
    """Actions that were sent."""
    clipped: int
    """Those of them that were brought back inside the bounds first."""
    slowed: int
    """Those of them that were sent only in part: the rest was faster than the rate."""
    refused: dict[str, int]
    """Actions that the fallback replaced, by reason, see `Trip`."""
    fallback_failed: dict[str, int]
    """How often the fallback function failed, by what it did: `raised ValueError`, `shape` or `not finite`."""
    latched: bool
    """True if the guard refuses every action until `rearm`."""
    why: str | None = None
    """Why the network refused the latest observation that it refused; None if it refused none."""

    def __str__(self) -> str:
        parts = [f"{self.passed} sent"]
        parts += [f"{count} {name}" for name, count in (("clipped", self.clipped), ("slowed", self.slowed)) if count]
        parts += [f"refused: {_counts(self.refused) or 'none'}"]
        failed = f"; fallback failed: {_counts(self.fallback_failed)}" if self.fallback_failed else ""
        why = f"\nlatest observation refused: {self.why}" if self.why else ""
        return f"actions   {', '.join(parts)}{failed}{'; latched' if self.latched else ''}{why}"


class ActionGuard:
    """Checks every action before it is sent: `action = guard.act(model.predict, x, observed)`.

    An action passes if it is finite, inside the bounds of its fields or near them, not a jump, and computed from a
    recent observation. A value near its bounds is clipped. A value that is faster than its rate is sent in part, and
    the next actions go on from there. Otherwise the action is refused and the fallback acts. After `latch_after`
    refusals within `window`, in a row or not, the guard latches: it refuses every action until a person calls `rearm`,
    and fields whose `kind` is velocity or effort go to zero. One control thread calls the guard; any thread may call
    `rearm` and `report`.

    Whatever is asked, what is sent is finite, inside the bounds, and never faster than the rates. This holds for the
    fallback too.

    Example:
        >>> import time
        >>> from msr_runtime import ActionGuard, Field
        >>> velocity = Field(name="velocity", shape=(2,), unit="m/s", low=-1.0, high=1.0, kind="velocity")
        >>> guard = ActionGuard([velocity], hz=10, max_age=10.0)
        >>> guard([0.5, 0.0], time.monotonic()).tolist()
        [0.5, 0.0]
        >>> guard([1.1, 0.0], time.monotonic()).tolist()  # near its bounds: clipped
        [1.0, 0.0]
        >>> guard([9.0, 0.0], time.monotonic()).tolist()  # far outside: "hold" repeats the last action
        [1.0, 0.0]
        >>> print(guard.report())
        actions   2 sent, 1 clipped, refused: 1 bounds
    """

    def __init__(
        self,
        fields: Sequence[Field],
        hz: float,
        max_age: float,
        *,
        fallback: Fallback = "hold",
        rates: Mapping[str, float] | None = None,
        state: ArrayLike | None = None,
        margin: float = 0.1,
        latch_after: int = 10,
        window: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Guard actions `(out,)` that consist of `fields`, in this order.

        Args:
            fields: The parts of an action. For a model, `model.manifest.outputs`. `low` and `high` are the bounds. Once
                the guard has latched, fields of the kinds velocity and effort go to zero at their rate; without a rate
                they take 1 s from the largest value in the bounds. Everything else stays as it is. If zero is outside
                the bounds, the value nearest to it counts as zero. Fields with `wraps` take the short way round.
            hz: The control rate, in Hz. At most two of its periods count as time that has passed: a long pause does not
                allow a large step.
            max_age: Largest accepted age of the observation, in s.
            fallback: What acts in place of a refused action. `hold` repeats the last action sent; before the first one
                it sends `state`, or without it the action nearest to zero within the bounds. `zero` sends zeros. A
                function gets the last action sent, `(out,)`, and returns an action `(out,)`, which is clipped to the
                bounds. If it fails, the last action is repeated, and the report says how it failed. Once the guard has
                latched, a function goes on acting; `hold`, and a function that fails, stop as the kinds of the fields
                say.
            rates: Largest rate of change per field name, in the field's unit per second, for each value of the field.
                What is sent never changes faster. If what is asked changes faster, and by more than one control period
                of it, that is a fault and refused.
            state: What the robot does now, `(out,)`, in the units of the fields: zeros for a velocity at standstill,
                measured values for positions. The first action is limited from here. Wanted where `rates` are given.
            margin: How far outside its bounds a value is clipped and not refused, as a share of `high - low`. With an
                infinite bound there is no margin.
            latch_after: Number of refusals at which the guard latches.
            window: The time within which they count, in s. The default is 100 control periods, or two for each of
                `latch_after` if that is more. From one call to the next two periods pass at most, so that a slow loop
                latches too.
            clock: Returns the time in s, as `observed` is given. Simulations and tests give their own.

        Raises:
            InputError: If a number is out of range, `window` is too short for `latch_after`, `rates` names an unknown
                field, `rates` are given without `state`, bounds cannot be kept, `fallback` is an unknown word, or
                `fallback` is `zero` and zero is outside the bounds.
        """
        rates = rates or {}
        numbers = {"hz": hz, "max_age": max_age, "latch_after": latch_after}
        numbers |= {} if window is None else {"window": window}
        numbers |= {f"rates['{name}']": rate for name, rate in rates.items()}
        for name, value in numbers.items():
            if not value > 0 or (value == math.inf and name not in _MAY_BE_INFINITE):
                raise InputError(f"{name} is {value}, but a positive number is wanted")
        window = window or max(_WINDOW, LONGEST * latch_after) / hz
        if latch_after - 1 >= window * hz:
            raise InputError(
                f"latch_after is {latch_after}, but a window of {window:g} s has {window * hz:.0f} control periods, so "
                f"the guard would never latch; give a smaller latch_after, or a window of "
                f"{LONGEST * latch_after / hz:g} s, or none"
            )
        if not 0 <= margin < math.inf:
            raise InputError(f"margin is {margin}, but a share of the range is wanted, 0 or more")
        places = field_slices(fields)
        if unknown := [name for name in rates if name not in places]:
            raise InputError(f"rates has '{unknown[0]}', but the fields are {list(places)}; name one of these")
        self._bounds = ActionBounds(fields, margin)
        self._stop = StopRamp(fields, rates)
        limits = [limit for field in fields for limit in [rates.get(field.name, math.inf)] * field.size]
        turns = [turn for field in fields for turn in [field.wraps or math.inf] * field.size]
        self._rates = ActionRates(limits, turns, 1 / hz)
        self._zero = [0.0] * width(fields)
        if not callable(fallback):
            if fallback not in ("hold", "zero"):
                raise InputError(f"fallback is {fallback!r}, but 'hold', 'zero' or a function is wanted")
            if fallback == "zero" and self._bounds.inside(self._zero) is not self._zero:
                raise InputError(
                    "fallback is 'zero', but zero is outside the bounds of a field; use 'hold' or give a function"
                )
        if rates and state is None:
            raise InputError(
                "rates are given without a state, so the first action could be a jump; give `state`, what the robot "
                "does now: zeros for velocities at standstill, measured values for positions"
            )
        # Lists of Python numbers: an action is short, and comparing it by numpy would take ten times as long.
        self._sent = self._bounds.inside(self._zero if state is None else self._as_state(state))
        self._max_age, self._fallback, self._clock = max_age, fallback, clock
        # Other threads hold this lock for microseconds only (`rearm`, `report`), so a tick hardly waits. It is an RLock
        # because a fallback function may call `report` itself.
        self._lock = threading.RLock()
        self._trips, self._latched = TripWindow(latch_after, window), False
        self._passed = self._clipped = self._slowed = 0
        self._refused: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        self._why: str | None = None
        self._sent_at, self._ran, self._longest = clock(), 0.0, LONGEST / hz

    def __call__(self, action: ArrayLike, observed: float) -> Array:
        """Return the action to send, `(out,)` float32: `action` itself, a limited one, or that of the fallback.

        Args:
            action: `(out,)` in the units of the fields.
            observed: The time of the guard's clock, `time.monotonic()` by default, when the observation was taken. A
                time in the future counts as stale: it comes from another clock.

        Raises:
            InputError: If `action` has another shape. That is a mistake in the program, not a fault of the robot.
        """
        asked = _float32(action)
        if asked.shape != (len(self._zero),):
            raise InputError(
                f"the action has shape {asked.shape}, but the fields make ({len(self._zero)},); the guard takes one "
                "action per call, without a batch axis"
            )
        return self._send(asked, observed)

    def act(self, predict: Callable[[ArrayLike], Array], x: ArrayLike, observed: float) -> Array:
        """Return the action to send for an observation: what `predict` computes from it, checked as in a call.

        If `predict` refuses the observation, there is no action: the fallback acts, and this counts towards the latch.
        So a dead sensor that gives NaN, nothing or another shape stops the robot, and does not end its program.

        Args:
            predict: `predict` of an `AdaptiveModel` or of an `OnlineAdapter`.
            x: One observation `(obs,)` in raw units.
            observed: As in a call.

        Raises:
            InputError: If `predict` returns an action of another shape.
        """
        try:
            action = predict(x)
        except InputError as error:
            self._why = str(error)
            return self._send(np.full(len(self._zero), math.nan, np.float32), observed, Trip.OBSERVATION)
        return self(action, observed)

    def _send(self, asked: Array, observed: float, fault: Trip | None = None) -> Array:
        """Judge an action `(out,)`, unless it has a known fault, and return what is to be sent."""
        values = asked.tolist()
        with self._lock:
            now = self._clock()
            # A clock that was set back, as in a simulation that starts again, allows no step.
            seconds, self._sent_at = max(0.0, now - self._sent_at), now
            counted = min(seconds, self._longest)
            self._ran += counted
            target = self._judge(values, now, now - observed, fault)
            if isinstance(target, Trip):
                self._refused[target] = self._refused.get(target, 0) + 1
                if not self._latched:
                    self._latched = self._trips.trip(self._ran)
                self._move(self._fall_back(seconds), counted)
            else:
                self._passed += 1
                self._clipped += target is not values and self._bounds.overshot(values)
                self._slowed += self._move(target, counted)
                if self._sent is values:
                    return asked
            return np.array(self._sent, np.float32)  # of the caller, who may write into it

    def rearm(self, state: ArrayLike | None = None) -> None:
        """Let actions pass again, and count towards `latch_after` from zero.

        Args:
            state: What the robot does now, `(out,)`, if it is not what the guard sent last: a person may have moved it.
                The rates of the next action are limited from here.

        Raises:
            InputError: If `state` has another shape or is not finite.
        """
        with self._lock:
            if state is not None:
                self._sent = self._bounds.inside(self._as_state(state))
            self._latched = False
            self._trips.clear()
            self._rates.forget()

    def report(self) -> GuardReport:
        """Return the counts so far."""
        with self._lock:
            return GuardReport(
                self._passed,
                self._clipped,
                self._slowed,
                {str(trip): count for trip, count in self._refused.items()},
                self._failed.copy(),
                self._latched,
                self._why,
            )

    def _judge(self, asked: list[float], now: float, age: float, fault: Trip | None) -> list[float] | Trip:
        """Return the action inside the bounds that is asked for, `asked` itself if it is one, or why it is refused."""
        if self._latched:
            return Trip.LATCHED
        if fault:
            return fault
        if not all(map(math.isfinite, asked)):
            return Trip.NOT_FINITE
        if not self._bounds.allow(asked):
            return Trip.BOUNDS
        if not 0 <= age <= self._max_age:
            return Trip.STALE
        target = self._bounds.inside(asked)
        return Trip.RATE if self._rates.jump(target, now) else target

    def _move(self, target: list[float], seconds: float) -> bool:
        """Send what the rates allow of `target`, and return whether that is less than all of it."""
        moved = self._rates.toward(self._sent, target, seconds)
        self._sent = self._bounds.inside(moved)
        return moved is not target

    def _fall_back(self, seconds: float) -> list[float]:
        if self._fallback == "zero":
            return self._zero
        if callable(self._fallback) and (chosen := self._call(self._fallback)) is not None:
            return chosen
        return self._bounds.inside(self._stop.after(self._sent, seconds)) if self._latched else self._sent

    def _call(self, fallback: Callable[[Array], ArrayLike]) -> list[float] | None:
        """Return what the function chooses, inside the bounds, or None if it fails."""
        try:
            chosen = _float32(fallback(np.array(self._sent, np.float32)))
        except Exception as error:  # noqa: BLE001 - the user's code raises anything, and the robot must go on safely
            return self._fail(f"raised {type(error).__name__}")
        if chosen.shape != (len(self._zero),):
            return self._fail("shape")
        if not all_finite(chosen):
            return self._fail("not finite")
        return self._bounds.inside(chosen.tolist())

    def _fail(self, how: str) -> None:
        self._failed[how] = self._failed.get(how, 0) + 1

    def _as_state(self, state: ArrayLike) -> list[float]:
        given = np.asarray(state, np.float64)
        if given.shape != (len(self._zero),) or not np.isfinite(given).all():
            raise InputError(
                f"the state is {given.tolist()}, but {len(self._zero)} finite numbers are wanted, in the units of the "
                "fields"
            )
        return given.tolist()


def _float32(action: ArrayLike) -> Array:
    """The action as float32. A value too large for float32 becomes infinite, and is refused as not finite."""
    refuse_masked("the action", action)
    array = np.asarray(action)
    if array.dtype == np.float32:
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
