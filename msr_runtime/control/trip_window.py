"""The window in which refusals count towards the latch."""

from collections import deque


class TripWindow:
    """Counts the trips of the last seconds. Older ones no longer count."""

    def __init__(self, trips: int, seconds: float) -> None:
        """Be full at `trips` trips within `seconds`."""
        self._trips, self._seconds = trips, seconds
        self._times: deque[float] = deque()

    def trip(self, now: float) -> bool:
        """Count a trip at `now`, in s, never before the last one, and return whether the window is full."""
        self._times.append(now)
        while now - self._times[0] > self._seconds:
            self._times.popleft()
        return len(self._times) >= self._trips

    def clear(self) -> None:
        """Forget every trip."""
        self._times.clear()
