"""The bounds of an action: what is too far outside them, and the nearest action inside, as float32 can say it."""

import math
from collections.abc import Sequence
from operator import le

import numpy as np

from msr_runtime.errors import InputError
from msr_runtime.task import Field


class ActionBounds:
    """The bounds of every value of an action. Actions are lists of Python floats, see `ActionGuard`."""

    def __init__(self, fields: Sequence[Field], margin: float) -> None:
        """Take `low` and `high` from `fields`, in this order.

        Args:
            fields: The parts of an action.
            margin: How far outside its bounds a value is still brought back, as a share of `high - low`.

        Raises:
            InputError: If no float32 lies between the bounds of a field.
        """
        inner, rounded, outer, self._turns = [], [], [], []
        for field in fields:
            low, high = field.low, field.high
            near = _float32(low), _float32(high)
            # float32(0.1) is above 0.1: step back inside.
            floor = near[0] if near[0] >= low else _next(near[0], math.inf)
            ceiling = near[1] if near[1] <= high else _next(near[1], -math.inf)
            if floor > ceiling:
                raise InputError(
                    f"the field '{field.name}' goes from {low} to {high}, but no float32 lies between; widen its bounds"
                )
            room = margin * (high - low) if math.isfinite(high - low) else 0.0
            inner += [(floor, ceiling)] * field.size
            rounded += [near] * field.size
            # A value that rounding alone puts outside is not outside.
            outer += [(min(low - room, near[0]), max(high + room, near[1]))] * field.size
            self._turns += [field.wraps or math.inf] * field.size
        (self._low, self._high), (self._near_low, self._near_high), (self._outer_low, self._outer_high) = (
            tuple(map(list, zip(*pairs, strict=True))) for pairs in (inner, rounded, outer)
        )

    def allow(self, action: list[float]) -> bool:
        """Return whether every value is within the bounds and their margin."""
        return all(map(le, self._outer_low, action)) and all(map(le, action, self._outer_high))

    def overshot(self, action: list[float]) -> bool:
        """Return whether a value is outside its bounds by more than the rounding of float32."""
        return not (all(map(le, self._near_low, action)) and all(map(le, action, self._near_high)))

    def inside(self, action: list[float]) -> list[float]:
        """Return `action` itself if it is inside, or the nearest action that is. Angles are turned, not clipped.

        Rounding the result to float32 never takes it outside again.
        """
        if all(map(le, self._low, action)) and all(map(le, action, self._high)):
            return action
        bounds = zip(action, self._low, self._high, self._turns, strict=True)
        return [_inside(*each) for each in bounds]


def _inside(value: float, low: float, high: float, turn: float) -> float:
    if turn < math.inf:  # from the bound that it passed: the other one may be infinite
        if value < low:
            value = low + (value - low) % turn
        elif value > high:
            value = high - (high - value) % turn
    return min(max(value, low), high)


def _float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _next(value: float, toward: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(toward)))
