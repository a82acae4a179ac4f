"""What an OnlineAdapter does with observed samples, one after another: it needs no thread and no clock."""

import copy
import math
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.comparison import Comparison
from msr_runtime.adaptation.holding import Holding
from msr_runtime.adaptation.inbox import Change, Observed
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.sample_recorder import SampleRecorder
from msr_runtime.adaptation.sample_window import LeftOut, SampleWindow
from msr_runtime.adaptation.tally import Tally
from msr_runtime.adaptation.update_guard import UpdateGuard
from msr_runtime.adaptation.weights_recorder import WeightsRecorder
from msr_runtime.errors import InputError
from msr_runtime.inference.input_bounds import OutsideCounter
from msr_runtime.task import Array

_ROWS = 32
"""Samples that are predicted at once. One number for all, because each other one would need buffers of its own."""


class Learning(ABC):
    """Takes observed samples, and keeps count of them. One thread calls it; any thread may read its counts.

    Args:
        model: The model that acts.
        window: The window that samples enter.
        guard: What may refuse an update.
        compare: Over so many samples, the weight of a sample in the comparison falls by the factor e. None: nothing is
            compared.
        recorder: Gets what changes the acting weights.

    Raises:
        InputError: If the guard is to hold `v0` and nothing is compared.
    """

    def __init__(
        self,
        model: AdaptiveModel,
        window: SampleWindow,
        guard: UpdateGuard,
        compare: float | None,
        recorder: SampleRecorder | None,
    ) -> None:
        self._model, self._samples, self._guard = model, window, guard
        self._specs = model.sample_specs
        found = None if compare is None else Comparison(self._specs[1], model.manifest.normalization, compare)
        self.comparison = found
        """The comparison with answers that need no adapting; None if nothing is compared."""
        self._learner, self.holding = model, None
        self._recorder: WeightsRecorder | None = recorder
        if guard.hold_v0:
            if not found:
                raise InputError(
                    "the guard is to hold v0 where adapting hurts (hold_v0), but nothing is compared, so nobody would "
                    "know; give OnlineAdapter(compare=64)"
                )
            self._learner = copy.copy(model)
            self._recorder = self.holding = Holding(model, self._learner, found, recorder)
        self._v0 = model.fork()
        self._new: list[tuple[Array, NDArray]] = []
        """Samples that were not compared yet."""
        self.tally, self.outside, self.task, self.late = Tally(), OutsideCounter(), 0, 0
        self._latest = -math.inf
        """The time of the latest sample that was learned from."""
        self.frozen = False
        """Whether nothing is learned."""
        self.restarts = 0
        """How often a change of the task was noticed."""

    def offer(self, sample: Observed) -> None:
        """Take in one sample, or count why it is left out."""
        if sample.x is None or sample.y is None:
            self._samples.leave_out(LeftOut.NO_X if sample.x is None else LeftOut.NO_Y)
            return
        if sample.task < self.task:
            self._samples.leave_out(LeftOut.OLD_TASK)
            return
        if self.frozen:
            self._samples.leave_out(LeftOut.FROZEN)
            return
        if self._enters(sample.x, sample.y):
            self.late += sample.at < self._latest
            if self._take(sample.x, sample.y, sample.at):
                self._latest = max(self._latest, sample.at)

    def _enters(self, x: Array, y: NDArray) -> bool:
        inside = self._model.bounds.hold(x, y)
        # Only finite values are some distance away from their bounds. The window counts the others.
        if not inside and np.isfinite(x).all() and np.isfinite(y).all():
            try:
                self._model.bounds.count(self._specs, x[None], y[None], self.outside.add)
            except InputError:
                self._samples.leave_out(LeftOut.ABSURD)
                return False
        return self._samples.offer(x, y, inside)

    @abstractmethod
    def _take(self, x: Array, y: NDArray, at: float) -> bool:
        """Take in a sample that has entered the window. Return whether it counts."""

    @abstractmethod
    def learn(self) -> None:
        """Learn from what was taken in, as far as that has not happened yet."""

    def begin_task(self, change: Change) -> None:
        """Forget what was observed before and, unless the change inflates, what was learned: `v0` acts."""
        self._compare()  # what was predicted before the change
        self.task = change.task
        self._forget(change.inflate)

    def _forget(self, inflate: float | None = None) -> None:
        """Begin another task: `v0` acts, or the learner is less sure of what it learned by the factor `inflate`."""
        self._samples.clear()
        if inflate is None:
            self._latest = -math.inf
        if self._recorder:
            self._recorder.reset(inflate=inflate, pending=True)
        if inflate is None:
            self._learner.reset()
        else:
            self._learner.inflate(inflate)
        if self._recorder:
            self._recorder.swapped()

    def _compare(self) -> None:
        """Compare what was answered to the new samples, before anything was learned from them."""
        if self.comparison and self._new:
            x, y = map(np.stack, zip(*self._new, strict=True))
            self.comparison.add(self._answers(x), predict_new(self._v0, x), y)
        self._new.clear()
        if self.holding:
            self.holding.decide()

    def _answers(self, x: NDArray) -> NDArray:
        """What the learner answered to the new samples. It has not learned from them yet."""
        return predict_new(self._learner, x)


def predict_new(model: AdaptiveModel, x: NDArray) -> NDArray:
    """Predict new samples `(samples, *x)`, a few one by one and many at once, and count none of them.

    The numbers of samples differ from call to call, but the model sees two shapes only: it keeps buffers for each.
    """
    model = copy.copy(model)  # which has counts of its own: the robot did not ask for these predictions
    if len(x) < _ROWS // 4:
        return np.stack([model.predict(each) for each in x])
    padded = np.concatenate([x, np.repeat(x[-1:], -len(x) % _ROWS, 0)])
    parts = [model.predict(padded[first : first + _ROWS]) for first in range(0, len(padded), _ROWS)]
    return np.concatenate(parts)[: len(x)]
