"""Learning sample by sample, with a bundle that can: one update each, from the first sample on."""

import math

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.family import FamilyCheck
from msr_runtime.adaptation.inbox import Change
from msr_runtime.adaptation.learning import Learning
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.sample_recorder import SampleRecorder
from msr_runtime.adaptation.sample_window import SampleWindow
from msr_runtime.adaptation.update_guard import UpdateGuard
from msr_runtime.task import Array


class SampleLearning(Learning):
    """Updates a model by each sample that enters the window, which therefore may hold a single one.

    The arguments are those of `Learning`, and the share of clean tasks that may be taken for strange ones in a minute.
    """

    def __init__(
        self,
        model: AdaptiveModel,
        window: SampleWindow,
        guard: UpdateGuard,
        compare: float | None,
        recorder: SampleRecorder | None,
        false_alarms: float,
    ) -> None:
        super().__init__(model, window, guard, compare, recorder)
        self.family = None if model.manifest.familiarity is None else FamilyCheck(model.manifest, false_alarms)
        """Whether the task is like those of meta-training; None if the bundle does not know them."""
        self._answered: list[Array] = []
        """What the learner answered to each of the samples that were not compared yet."""

    def _take(self, x: Array, y: NDArray, at: float) -> bool:
        """Learn from a sample at its time. One that comes late counts as if it were observed now."""
        elapsed = max(0.0, at - self._latest) if math.isfinite(self._latest) else 0.0
        if self._recorder:
            self._recorder.update(x, y, elapsed)
        result = self._learner.update(x, y, elapsed)
        if self._recorder:
            self._recorder.swapped()
        self.tally.count(result.refusal, result.seconds)
        if not result.accepted:
            return False
        if self.family:
            self.family.add(result.nis, y)
        if self.comparison:
            self._new.append((x, y))
            self._answered.append(y - result.innovation)
        return True

    def learn(self) -> None:
        """Compare what was answered: everything has been learned from."""
        self._compare()

    def begin_task(self, change: Change) -> None:
        """As `Learning.begin_task`."""
        super().begin_task(change)
        if self.family:
            self.family.begin_task()

    def _answers(self, x: NDArray) -> NDArray:  # noqa: ARG002 - each was answered by the weights of its time
        answered = np.stack(self._answered)
        self._answered.clear()
        return answered
