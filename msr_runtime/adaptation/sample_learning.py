"""Learning sample by sample, with a bundle that can: one update each, from the first sample on."""

import math

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.learning import Learning
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.sample_recorder import SampleRecorder
from msr_runtime.adaptation.sample_window import SampleWindow
from msr_runtime.adaptation.update_guard import UpdateGuard
from msr_runtime.task import Array


class SampleLearning(Learning):
    """Updates a model by each sample that enters the window, which therefore may hold a single one.

    The arguments are those of `Learning`.
    """

    def __init__(
        self,
        model: AdaptiveModel,
        window: SampleWindow,
        guard: UpdateGuard,
        compare: float | None,
        recorder: SampleRecorder | None,
    ) -> None:
        super().__init__(model, window, guard, compare, recorder)
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
        if self.comparison:
            self._new.append((x, y))
            self._answered.append(y - result.innovation)
        return True

    def learn(self) -> None:
        """Compare what was answered: everything has been learned from."""
        self._compare()

    def _answers(self, x: NDArray) -> NDArray:  # noqa: ARG002 - each was answered by the weights of its time
        answered = np.stack(self._answered)
        self._answered.clear()
        return answered
