"""Is this task like those of meta-training? How surprising the samples are, beside those of clean tasks."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msr_runtime.bundle.familiarity import Familiarity, usual_nis
from msr_runtime.bundle.surprise import surprise_parts
from msr_runtime.errors import InputError
from msr_runtime.normalization import Normalization

FALSE_ALARMS = 0.01
"""Share of clean tasks that are taken for strange ones: of batches, and by `OnlineAdapter` in each minute."""
_GROWTH = 0.5
"""By this power of the time, clean tasks become likelier to raise an alarm. It would be 1 if the windows of a task were
independent, and 0 if they were all alike. On hex-drive, 0.45 was seen between 13 s and 60 s."""
_FEWEST = 5
"""Samples from which on the beginning of a task is judged."""


@dataclass(frozen=True)
class FamilyVerdict:
    """Whether the samples look like those of a task of meta-training. See `Familiarity` for what surprise is."""

    surprise: float
    """The surprise of a support set, or of the latest samples. NaN while there are too few."""
    limit: float
    """What it exceeds on a clean task only by a false alarm."""
    alarms: int = 0
    """How often it has risen above the limit."""

    @property
    def inside(self) -> bool:
        """Whether the task may be one of the family. True while nothing is known."""
        return not self.surprise > self.limit

    def __str__(self) -> str:
        if math.isnan(self.surprise):
            return "not known yet"
        said = "inside the family" if self.inside else "outside the family: no task of meta-training is like it"
        past = f", alarms so far: {self.alarms}" if self.alarms else ""
        return f"surprise {self.surprise:.3g}, at most {self.limit:.3g} is usual: {said}{past}"


class FamilyCheck:
    """Watches how surprising samples are. One thread adds, any thread may read.

    Two figures are compared with those of clean tasks: the surprise of all samples since the task began, when there are
    as many as a support set that was measured, and that of the latest window. The first finds a strange task early,
    while the network is still unsure; the second finds one that becomes strange.

    Args:
        known: What is known of clean tasks.
        tick: The time between two samples of meta-training, in s.
        normalization: Of y.
        false_alarms: Share of clean tasks that may be taken for strange ones within a minute.

    Raises:
        InputError: If the share is not between 0 and 0.1.
    """

    def __init__(self, known: Familiarity, tick: float, normalization: Normalization, false_alarms: float) -> None:
        if not 0 < false_alarms <= 0.1:
            raise InputError(f"false_alarms is {false_alarms}, but a share above 0 and at most 0.1 a minute is wanted")
        self._normalization, self._usual = normalization, known.usual
        # Half of the false alarms are for the windows.
        self._limit = known.largest.limit(chance_in_stream(known, tick, false_alarms / 2))
        measured = [each for each in known.by_shots if each.shots >= _FEWEST]
        self._starts = {each.shots: each.surprise.limit(false_alarms / 2 / len(measured)) for each in measured}
        """Number of samples since the task began to the limit for all of them."""
        self._latest: deque[tuple[float, float]] = deque(maxlen=known.window)
        """The two parts of the surprise of each sample."""
        self.now = FamilyVerdict(math.nan, self._limit)
        """The verdict so far."""
        self.begin_task()

    def begin_task(self) -> None:
        """Forget the samples of the task before."""
        self._latest.clear()
        self._seen, self._errors, self._sizes = 0, 0.0, 0.0
        self._start: FamilyVerdict | None = None
        """The verdict on the beginning of the task, the newest one. None once a whole window came after it."""
        self.now = FamilyVerdict(math.nan, self._limit, self.now.alarms)

    def add(self, nis: float, y: NDArray) -> None:
        """Add one sample.

        Args:
            nis: Its normalized innovation squared, over all numbers of y.
            y: `(*y)` in raw units.
        """
        latest, before = self._latest, self.now
        self._seen += 1
        flat, usual = self._normalization.normalize_y(y).reshape(-1), usual_nis(self._usual, self._seen)
        error, size = map(float, surprise_parts(np.asarray(nis), flat, usual))
        latest.append((error, size))
        self._errors, self._sizes = self._errors + error, self._sizes + size
        if self._seen in self._starts:
            self._start = FamilyVerdict(self._errors / self._sizes, self._starts[self._seen])
        elif self._seen > max(self._starts, default=0) + len(latest):
            self._start = None
        found = [] if self._start is None else [self._start]
        if len(latest) == latest.maxlen:
            errors, sizes = map(sum, zip(*latest, strict=True))
            found.append(FamilyVerdict(errors / sizes, self._limit))
        worst = max(found, key=lambda each: each.surprise / each.limit, default=FamilyVerdict(math.nan, self._limit))
        alarm = before.inside and not worst.inside
        self.now = FamilyVerdict(worst.surprise, worst.limit, before.alarms + alarm)


def chance_in_stream(known: Familiarity, tick: float, false_alarms: float) -> float:
    """Return the share of the measured streams that may raise an alarm. Such a stream is shorter than a minute.

    Args:
        known: What is known of clean tasks.
        tick: The time between two samples of meta-training, in s.
        false_alarms: The share of clean tasks that may raise an alarm within a minute.

    """
    return false_alarms * (known.samples * tick / 60) ** _GROWTH


def judge_batch(known: Familiarity | None, surprise: float, shots: int) -> FamilyVerdict | None:
    """Return whether a support set looks like one of a clean task.

    Args:
        known: What the bundle knows of clean tasks.
        surprise: That of the samples, learned one after another from `v0`. NaN if there is none.
        shots: How many there are.

    Returns:
        The verdict. None if nothing is known.
    """
    if known is None or math.isnan(surprise):
        return None
    # Between two sizes that were measured, the wider limit holds; beyond them, that of the nearest.
    fewer = [each for each in known.by_shots if each.shots <= shots] or known.by_shots[:1]
    more = [each for each in known.by_shots if each.shots >= shots] or known.by_shots[-1:]
    limit = max(each.surprise.limit(FALSE_ALARMS) for each in (fewer[-1], more[0]))
    return FamilyVerdict(surprise, limit, int(surprise > limit))
