"""What may act: is this update acceptable, and is this action safe to send?

The black-box form of the Simplex architecture (Sha, "Using simplicity to control complexity", 2001): what was learned
acts only while a check that was not learned agrees.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import le, sub
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from msr_runtime.errors import InputError
from msr_runtime.session import all_finite
from msr_runtime.task import Array, Field, field_slices, width

_ROUNDING = 1.001  # a rate kept exactly is kept in float32 to a few units in the last place


class Refusal(StrEnum):
    """Why an update was refused."""

    NOT_FINITE = "not finite"
    TRUST_REGION = "trust region"
    HELD_OUT = "held-out loss"


class HeldOut(NamedTuple):
    """The loss on samples that the inner loop did not see, on normalised outputs."""

    before: float
    """With the weights that act."""
    after: float
    """With the adapted weights."""


class Objection(NamedTuple):
    """A refusal and the sentence that says what was seen and what was wanted."""

    refusal: Refusal
    reason: str


@dataclass(frozen=True)
class UpdateGuard:
    """Lets an update act if it is finite, near `v0` and not worse on held-out samples. Stateless: share it freely.

    Distance is `|v - v0| / |v0|` over all filter parameters together. A bound for each tensor would mean nothing: the
    last layer's bias often begins near zero, and then moves by twenty times its own norm on the best of tasks.
    """

    trust: float = 2.0
    """The largest distance; infinite to leave it out.

    On test tasks of ring-nav, gradient steps end within 0.3 (on hex-drive within 0.1), ridge steps within 0.6 and
    Gauss-Newton steps within 1.5, also from 64 shots where meta-training had 10. Gradient steps that run away from a
    bad sample end at up to 200: for them alone, 0.5 is closer.
    """

    def __post_init__(self) -> None:
        if not self.trust > 0:
            raise InputError(f"trust is {self.trust}, but a positive distance is wanted; infinity leaves it out")

    def judge(
        self, v0: Array, v: Array, losses: tuple[float, float], held_out: HeldOut | None = None
    ) -> Objection | None:
        """What speaks against letting the adapted `v` `(1, K)` act; None if nothing does.

        Args:
            v0: The meta-learned filter parameters, `(1, K)`.
            v: The adapted ones, `(1, K)`.
            losses: The support loss before and after.
            held_out: The loss on samples that the inner loop did not see; None judges without.

        Raises:
            InputError: If `v0` is zero: then no distance from it is relative, and `trust` must be infinite.
        """
        moved, scale = float(np.linalg.norm(v - v0)), float(np.linalg.norm(v0))
        if not all(map(math.isfinite, (moved, *losses, *(held_out[1:] if held_out else ())))):
            return NOT_FINITE
        if self.trust < math.inf:
            if not scale:
                raise InputError("v0 is zero, so that no distance from it is relative; give UpdateGuard(trust=inf)")
            if not moved <= self.trust * scale:
                return Objection(
                    Refusal.TRUST_REGION,
                    f"the adapted v is {moved / scale:.3g} of v0's norm away from v0, and {self.trust:g} is trusted; "
                    "the samples fit no task that meta-training knew",
                )
        if held_out and held_out.after > held_out.before:  # a NaN before is no reason to stay
            return Objection(
                Refusal.HELD_OUT,
                f"the loss on held-out samples would rise from {held_out.before:.4g} to {held_out.after:.4g}",
            )
        return None


NOT_FINITE = Objection(Refusal.NOT_FINITE, "the adapted weights or their loss are not finite")
"""What speaks against an update that overflowed."""

Fallback = Literal["hold", "zero"] | Callable[[Array], ArrayLike]


class Trip(StrEnum):
    """Why an action was not sent."""

    NOT_FINITE = "not finite"
    BOUNDS = "bounds"
    RATE = "rate"
    STALE = "stale"
    LATCHED = "latched"


@dataclass(frozen=True)
class GuardReport:
    """What an ActionGuard did; every call is either in `passed` or in `refused`."""

    passed: int
    """Actions sent as the network gave them."""
    refused: dict[str, int]
    """Actions that the fallback took the place of, by reason."""
    latched: bool
    """Whether the fallback acts until `rearm`."""

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {name}" for name, count in self.refused.items()) or "none"
        return f"actions   {self.passed} sent, refused: {reasons}{'; latched' if self.latched else ''}"


class ActionGuard:
    """The last check before the motors: `action = guard(model.predict(x), observed)`.

    An action is sent if it is finite, inside its fields' bounds, no farther from the action sent before than the rates
    allow, and computed from an observation that is young enough; otherwise the fallback acts. After `latch_after` such
    trips, in a row or not, the fallback acts until a person calls `rearm`. Called by one control thread; `rearm` and
    `report` by any.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        hz: float,
        max_age: float,
        fallback: Fallback = "hold",
        latch_after: int = 10,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        """Guard actions `(out,)` made of `fields`, in this order.

        Args:
            fields: Their `low` and `high` are the bounds.
            hz: The control rate, in Hz: how far a rate lets a field move in one tick.
            max_age: The oldest observation that an action may come from, in s.
            fallback: `hold` repeats what was sent last (before that: what is nearest to zero within the bounds);
                `zero` sends zeros; a callable gets what was sent last, `(out,)`, and returns an action `(out,)`,
                which is cut to the bounds; if that is not finite, what was sent last is held.
            latch_after: Trips since the start or the last `rearm` after which the guard latches.
            rates: The largest change of each of a field's numbers, in its unit a second, by the field's name. A limit
                for what should never be seen, not a smoother: an action beyond it is refused, not slowed down.

        Raises:
            InputError: If a number is not positive, a rate is of no field, or zero is outside the bounds.
        """
        for name, value in (("hz", hz), ("max_age", max_age), ("latch_after", latch_after), *(rates or {}).items()):
            if not value > 0:
                raise InputError(f"{name} is {value}, but a positive number is wanted")
        places = field_slices(fields)
        if unknown := [name for name in rates or {} if name not in places]:
            raise InputError(f"there is a rate for '{unknown[0]}', but the fields are {list(places)}")
        sizes = [field.size for field in fields]
        # as Python's own numbers: an action is short, and numpy would take ten times as long to compare it
        self._low, self._high, self._step = (
            np.repeat(np.array(column, np.float32), sizes).tolist()
            for column in (
                [field.low for field in fields],
                [field.high for field in fields],
                [_ROUNDING * (rates or {}).get(field.name, math.inf) / hz for field in fields],
            )
        )
        self._sent = np.clip(np.zeros(width(fields), np.float32), self._low, self._high)
        if fallback == "zero" and self._sent.any():
            raise InputError("fallback is 'zero', but zero is outside the fields' bounds; give a callable")
        self._max_age, self._fallback, self._latch_after = max_age, fallback, latch_after
        self._lock = threading.RLock()  # held by others for microseconds only; by a fallback that asks for the report
        self._follows = self._latched = False
        self._trips = self._passed = 0
        self._refused: dict[str, int] = {}

    def __call__(self, action: ArrayLike, observed: float) -> Array:
        """The action to send, `(out,)` float32: `action` itself or the fallback's.

        Args:
            action: `(out,)` in the fields' units.
            observed: `time.monotonic()` when the observation was taken; a time to come counts as stale, because it is
                of another clock.

        Raises:
            InputError: If `action` has another shape: that is a mistake in the program, not a fault of the robot.
        """
        asked = _float32(action)
        if asked.shape != self._sent.shape:
            raise InputError(f"the action has shape {asked.shape}, but the fields make {self._sent.shape}")
        with self._lock:
            trip = Trip.LATCHED if self._latched else self._judge(asked.tolist(), time.monotonic() - observed)
            if trip is None:
                self._passed += 1
                self._sent[...] = asked
                self._follows = True
                return asked
            self._refused[trip] = self._refused.get(trip, 0) + 1
            if not self._latched:
                self._trips += 1
                self._latched = self._trips >= self._latch_after
            return self._fall_back()

    def rearm(self) -> None:
        """Let actions through again; the next one may be any distance from what the fallback sent last."""
        with self._lock:
            self._trips, self._latched, self._follows = 0, False, False

    def report(self) -> GuardReport:
        """The counts so far."""
        with self._lock:
            return GuardReport(self._passed, {str(trip): count for trip, count in self._refused.items()}, self._latched)

    def _judge(self, action: list[float], age: float) -> Trip | None:
        if not all(map(math.isfinite, action)):
            return Trip.NOT_FINITE
        if not (all(map(le, self._low, action)) and all(map(le, action, self._high))):
            return Trip.BOUNDS
        if self._follows and not all(map(le, map(abs, map(sub, action, self._sent.tolist())), self._step)):
            return Trip.RATE
        return None if 0 <= age <= self._max_age else Trip.STALE

    def _fall_back(self) -> Array:
        if self._fallback == "zero":
            self._sent[...] = 0
        elif callable(self._fallback):
            chosen = _float32(self._fallback(self._sent.copy()))
            if chosen.shape != self._sent.shape:
                raise InputError(f"the fallback's action has shape {chosen.shape}, not {self._sent.shape}")
            if all_finite(chosen):
                self._sent[...] = np.clip(chosen, self._low, self._high)
        return self._sent.copy()


def _float32(action: ArrayLike) -> Array:
    """As it is where it can be; what does not fit becomes infinite, and is refused as that."""
    array = np.asarray(action)
    if array.dtype == np.float32:
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float32)
