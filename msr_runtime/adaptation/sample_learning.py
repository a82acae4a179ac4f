"""Learning sample by sample, with a bundle that can: one update each, from the first sample on."""

import math
import sys
import time
from collections import deque

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.family import FamilyCheck
from msr_runtime.adaptation.inbox import Change
from msr_runtime.adaptation.input_faults import FaultCheck
from msr_runtime.adaptation.learning import Learning
from msr_runtime.adaptation.measured import Measured
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.repeats import stuck
from msr_runtime.adaptation.sample_recorder import SampleRecorder
from msr_runtime.adaptation.sample_window import SampleWindow
from msr_runtime.adaptation.task_change import SAMPLES, ChangeDetector
from msr_runtime.adaptation.update_guard import Refusal, UpdateGuard
from msr_runtime.adaptation.update_result import UpdateResult
from msr_runtime.bundle.input_faults import steps_of
from msr_runtime.task import Array

_RUN = 64
"""Most samples of the same y that are looked at."""


class SampleLearning(Learning):
    """Updates a model by each sample that enters the window, which therefore may hold a single one.

    The arguments are those of `Learning`, and:

    Args:
        false_alarms: Share of clean tasks that may be taken for strange ones in a minute.
        detect_changes: Whether to begin at `v0` again where samples show that the task has changed.
    """

    def __init__(
        self,
        model: AdaptiveModel,
        window: SampleWindow,
        guard: UpdateGuard,
        compare: float | None,
        recorder: SampleRecorder | None,
        false_alarms: float,
        detect_changes: bool,
    ) -> None:
        super().__init__(model, window, guard, compare, recorder)
        known, recursion = model.manifest.familiarity, model.manifest.recursion
        self.family = None
        """Whether the task is like those of meta-training; None if the bundle does not know them."""
        if known and recursion:
            self.family = FamilyCheck(known, recursion.tick, model.manifest.normalization, false_alarms)
        self.faults = None
        """Whether one number of x is at fault; None if the bundle does not know how clean tasks look."""
        if known and recursion and known.faults:
            self.faults = FaultCheck(known, model.manifest.inputs, recursion.tick, false_alarms)
        self._detector = ChangeDetector() if detect_changes else None
        self._last: deque[tuple[Array, NDArray, float]] = deque(maxlen=SAMPLES)
        """The latest samples that were learned, and the time since the one before, in s."""
        self._scale = Measured(model.manifest).scale
        self._steps = None if self.faults is None else steps_of(self._scale)
        self._same: deque[tuple[Array, NDArray]] = deque(maxlen=_RUN)
        """The latest samples, as far back as their y is exactly the same."""
        self._answered: list[Array] = []
        """What the learner answered to each of the samples that were not compared yet."""

    def _take(self, x: Array, y: NDArray, at: float) -> bool:
        """Learn from a sample at its time. One that comes late counts as if it were observed now."""
        began = time.perf_counter()
        if self._stuck(x, y):
            self.tally.count(Refusal.STUCK, time.perf_counter() - began)
            return False
        # The difference of two finite times may be infinite.
        elapsed = min(max(0.0, at - self._latest), sys.float_info.max) if math.isfinite(self._latest) else 0.0
        result, slopes = self._update(x, y, elapsed)
        self.tally.count(result.refusal, result.seconds)
        if not result.accepted:
            return False
        if self.comparison:
            self._new.append((x, y))
            self._answered.append(y - result.innovation)
        self._last.append((x, y, elapsed))
        # Where a sensor gets stuck, its y surprises too. The robot has no other task, and would forget the one it has.
        repeats = len(self._same) > 1 and not self._guard.constant_y
        if self._detector and not repeats and self._detector.add(result.nis / y.size):
            self._restart()
        else:
            self._watch(x, y, result, slopes)
        return True

    def _stuck(self, x: Array, y: NDArray) -> bool:
        """Return whether y is that of the samples before, although their x differ. Called once for each sample."""
        if self._same and not np.array_equal(self._same[-1][1], y):
            self._same.clear()
        self._same.append((x, y))
        if self._guard.constant_y or len(self._same) == 1:
            return False
        found = stuck(self._specs[1].fields, self._scale, *map(np.stack, zip(*self._same, strict=True)))
        return found is not None and found[0]

    def _restart(self) -> None:
        """Begin at `v0` again, with the samples that showed the change: they belong to the new task."""
        self.restarts += 1
        self._forget()
        self._begin_watching()
        for x, y, elapsed in self._last:
            result, slopes = self._update(x, y, elapsed)
            if result.accepted:
                self._watch(x, y, result, slopes)

    def _update(self, x: Array, y: NDArray, elapsed: float) -> tuple[UpdateResult, NDArray | None]:
        """Learn from a sample. Also return the slopes of the weights that it surprised; None if nobody needs them."""
        if self._recorder:
            self._recorder.update(x, y, elapsed)
        slopes = None if self._steps is None else self._learner.slopes(x, self._steps)
        result = self._learner.update(x, y, elapsed)
        if self._recorder:
            self._recorder.swapped()
        return result, slopes

    def _watch(self, x: Array, y: NDArray, result: UpdateResult, slopes: NDArray | None) -> None:
        """Let the checks see a sample that belongs to the task. One that shows another task is no alarm in this one."""
        if self.family:
            self.family.add(result.nis, y)
        if self.faults and slopes is not None:
            self.faults.add(x / self._scale, result.innovation.reshape(-1), result.variance.reshape(-1), slopes)

    def learn(self) -> None:
        """Compare what was answered: everything has been learned from."""
        self._compare()

    def begin_task(self, change: Change) -> None:
        """As `Learning.begin_task`."""
        super().begin_task(change)
        self._last.clear()
        self._same.clear()
        self._begin_watching()

    def _begin_watching(self) -> None:
        """Judge the new task by its own samples."""
        for check in filter(None, (self.family, self.faults)):
            check.begin_task()
        if self._detector:
            self._detector.begin_task()

    def _answers(self, x: NDArray) -> NDArray:  # noqa: ARG002 - each was answered by the weights of its time
        answered = np.stack(self._answered)
        self._answered.clear()
        return answered
