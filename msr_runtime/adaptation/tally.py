"""The counts of the adaptations of an OnlineAdapter."""

import math
import time
from collections import Counter

import numpy as np

from msr_runtime.adaptation.update_guard import Refusal

_KEPT = 1024  # latest adaptations whose times are kept for the percentiles


class Tally:
    """Counts what adaptations came to. One thread counts, any thread may read."""

    def __init__(self) -> None:
        self.tried = self.accepted = self.cleaned = self.rested = 0
        self._refused: Counter[Refusal] = Counter()
        self._seconds, self._accepted_at = np.full(_KEPT, np.nan), math.nan

    def count(self, refusal: Refusal | None, seconds: float, *, cleaned: bool = False) -> None:
        """Count one adaptation.

        Args:
            refusal: Why it was refused; None if it was accepted.
            seconds: How long it took, in s.
            cleaned: Whether it left samples out that spoil it.
        """
        self._seconds[self.tried % _KEPT] = seconds
        if refusal is None:
            self.accepted += 1
            self.cleaned += cleaned
            self._accepted_at = time.monotonic()
        else:
            self._refused[refusal] += 1
        self.tried += 1

    @property
    def refused(self) -> dict[str, int]:
        """The refused ones by reason."""
        # copied in one step, because the counting thread may add a reason during the iteration
        return {str(name): count for name, count in self._refused.copy().items()}

    @property
    def weights_age(self) -> float:
        """Time since the latest accepted one, in s; NaN before it."""
        return time.monotonic() - self._accepted_at

    def seconds(self) -> tuple[float, float]:
        """Return the median and the 95th percentile of the times, in s; NaN before the first."""
        seconds = self._seconds[: self.tried] if self.tried else np.array([np.nan])
        p50, p95 = np.percentile(seconds, [50, 95]).tolist()
        return p50, p95
