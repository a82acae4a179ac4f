"""The rates of an action: how far it may move in the time that the clock says has passed."""

import math
from collections.abc import Sequence
from operator import le, sub

LONGEST = 2
"""Control periods that count at most between two actions: one skipped period is made good. After a longer pause nobody
knows what the robot did meanwhile, so the pause allows no larger step."""
_SHORTEST = 1e-300  # seconds: infinity times zero would be NaN


class ActionRates:
    """Judges how fast what is asked changes, and limits how fast what is sent changes.

    The two are separate, so that there is always a way back. After a fallback or a pause, what is asked may be far from
    what was sent. Then what is sent goes towards it at the rate, and no fault is seen in that.
    """

    def __init__(self, limits: Sequence[float], turns: Sequence[float], period: float) -> None:
        """Limit every value of an action.

        Args:
            limits: Largest rate of change of each value, in its unit per second. Infinity is no limit.
            turns: One full turn of each value, in its unit. Infinity means that it does not wrap.
            period: The control period, in s.
        """
        self._limits, self._turns, self._period = limits, turns, period
        self._limited = any(limit < math.inf for limit in limits)
        self.forget()

    def forget(self) -> None:
        """Compare the next action with none before it."""
        self._asked: list[float] | None = None
        self._asked_at = 0.0

    def jump(self, asked: list[float], now: float) -> bool:
        """Return whether `asked` is too far from what was asked last, and remember it for the next call.

        One period more than has passed is allowed: after a tick that came late, the next one comes early.
        """
        before, seconds = self._asked, now - self._asked_at
        self._asked, self._asked_at = asked, now
        if not self._limited or before is None or not 0 <= seconds <= LONGEST * self._period:
            return False
        return not self._within(self._changes(before, asked), seconds + self._period)

    def toward(self, sent: list[float], target: list[float], seconds: float) -> list[float]:
        """Return `target` itself if it can be reached from `sent` in `seconds`, or else an action on the way.

        An angle takes the shorter way round, and may leave its bounds by it.
        """
        if not self._limited:
            return target
        seconds = max(_SHORTEST, seconds)
        changes = self._changes(sent, target)
        if self._within(changes, seconds):
            return target
        return [
            end if abs(change) <= limit * seconds else start + math.copysign(limit * seconds, change)
            for start, end, change, limit in zip(sent, target, changes, self._limits, strict=True)
        ]

    def _changes(self, start: list[float], end: list[float]) -> list[float]:
        return list(map(math.remainder, map(sub, end, start), self._turns))

    def _within(self, changes: list[float], seconds: float) -> bool:
        return all(map(le, map(abs, changes), [limit * seconds for limit in self._limits]))
