"""Learning sample by sample, with a bundle that can: one update each, from the first sample on."""

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.family import FamilyCheck
from msr_runtime.adaptation.inbox import Change
from msr_runtime.adaptation.learning import Learning
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.sample_recorder import SampleRecorder
from msr_runtime.adaptation.sample_window import SampleWindow
from msr_runtime.adaptation.task_change import SAMPLES, ChangeDetector
from msr_runtime.adaptation.update_guard import UpdateGuard
from msr_runtime.adaptation.update_result import UpdateResult
from msr_runtime.task import Array


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
        self.family = None if model.manifest.familiarity is None else FamilyCheck(model.manifest, false_alarms)
        """Whether the task is like those of meta-training; None if the bundle does not know them."""
        self._detector = ChangeDetector() if detect_changes else None
        self._last: deque[tuple[Array, NDArray, float]] = deque(maxlen=SAMPLES)
        """The latest samples that were learned, and the time since the one before, in s."""
        self.restarts = 0
        """How often a change of the task was noticed."""
        self._answered: list[Array] = []
        """What the learner answered to each of the samples that were not compared yet."""

    def _take(self, x: Array, y: NDArray, at: float) -> bool:
        """Learn from a sample at its time. One that comes late counts as if it were observed now."""
        elapsed = max(0.0, at - self._latest) if math.isfinite(self._latest) else 0.0
        result = self._update(x, y, elapsed)
        self.tally.count(result.refusal, result.seconds)
        if not result.accepted:
            return False
        if self.comparison:
            self._new.append((x, y))
            self._answered.append(y - result.innovation)
        self._last.append((x, y, elapsed))
        if self._detector and self._detector.add(result.nis / y.size):
            self._restart()
        elif self.family:
            self.family.add(result.nis, y)
        return True

    def _restart(self) -> None:
        """Begin at `v0` again, with the samples that showed the change: they belong to the new task."""
        self.restarts += 1
        self._forget()
        self._begin_watching()
        for x, y, elapsed in self._last:
            result = self._update(x, y, elapsed)
            if self.family and result.accepted:
                self.family.add(result.nis, y)

    def _update(self, x: Array, y: NDArray, elapsed: float) -> UpdateResult:
        if self._recorder:
            self._recorder.update(x, y, elapsed)
        result = self._learner.update(x, y, elapsed)
        if self._recorder:
            self._recorder.swapped()
        return result

    def learn(self) -> None:
        """Compare what was answered: everything has been learned from."""
        self._compare()

    def begin_task(self, change: Change) -> None:
        """As `Learning.begin_task`."""
        super().begin_task(change)
        self._last.clear()
        self._begin_watching()

    def _begin_watching(self) -> None:
        """Judge the new task by its own samples."""
        if self.family:
            self.family.begin_task()
        if self._detector:
            self._detector.begin_task()

    def _answers(self, x: NDArray) -> NDArray:  # noqa: ARG002 - each was answered by the weights of its time
        answered = np.stack(self._answered)
        self._answered.clear()
        return answered
