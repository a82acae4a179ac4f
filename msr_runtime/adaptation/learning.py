"""What an OnlineAdapter does with observed samples, one after another: it needs no thread and no clock."""

import copy

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.comparison import Comparison
from msr_runtime.adaptation.holding import Holding
from msr_runtime.adaptation.inbox import Observed
from msr_runtime.adaptation.measured import Measured
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.repeats import at_rest
from msr_runtime.adaptation.result import AdaptResult
from msr_runtime.adaptation.sample_recorder import SampleRecorder, WeightsRecorder
from msr_runtime.adaptation.sample_window import LeftOut, SampleWindow
from msr_runtime.adaptation.start import Start
from msr_runtime.adaptation.tally import Tally
from msr_runtime.adaptation.update_guard import UpdateGuard
from msr_runtime.arrays import norm
from msr_runtime.errors import InputError
from msr_runtime.inference.input_bounds import OutsideCounter
from msr_runtime.task import Array

_ROWS = 32
"""Samples that are predicted at once. One number for all, because each other one would need buffers of its own."""


class Learning:
    """Lets a model learn from a window of samples. One thread calls it; any thread may read its counts.

    Args:
        model: The model that acts.
        window: The window of samples.
        guard: What may refuse an update.
        start: Where an adaptation begins.
        needed: Samples below which nothing is adapted.
        compare: Over so many samples, the weight of a sample in the comparison falls by the factor e. None: nothing is
            compared.
        recorder: Gets what changes the acting weights.

    Raises:
        InputError: As `UpdateGuard.limits`; or the guard is to hold `v0` and nothing is compared.
    """

    def __init__(
        self,
        model: AdaptiveModel,
        window: SampleWindow,
        guard: UpdateGuard,
        start: Start,
        needed: int,
        compare: float | None,
        recorder: SampleRecorder | None,
    ) -> None:
        manifest = model.manifest
        measured = Measured(manifest)
        # raise an error of the guard here, in the caller, not in a thread
        guard.limits(measured, manifest.inner_steps, start, norm(model.bundle.start()["v"]))
        self._model, self._samples, self._guard, self._needed = model, window, guard, needed
        self._start: Start = start
        self._specs, self._scale = model.sample_specs, measured.scale
        self.comparison = None if compare is None else Comparison(self._specs[1], manifest.normalization, compare)
        """The comparison with answers that need no adapting; None if nothing is compared."""
        self._learner, self.holding = model, None
        self._recorder: WeightsRecorder | None = recorder
        if guard.hold_v0:
            if not self.comparison:
                raise InputError(
                    "the guard is to hold v0 where adapting hurts (hold_v0), but nothing is compared, so nobody would "
                    "know; give OnlineAdapter(compare=64)"
                )
            self._learner = copy.copy(model)
            self._recorder = self.holding = Holding(model, self._learner, self.comparison, recorder)
        self._v0 = model.fork()
        self._new: list[tuple[Array, NDArray]] = []
        self.tally, self.outside, self.task, self.late = Tally(), OutsideCounter(), 0, 0
        self._learned_from, self._latest = 0, -np.inf
        self.frozen = False
        """Whether nothing is learned."""
        self.result: AdaptResult | None = None
        """The result of the latest adaptation."""

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
            self._latest = max(self._latest, sample.at)
            if self.comparison:
                self._new.append((sample.x, sample.y))

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

    def learn(self) -> None:
        """Adapt to the window, if there is something new in it."""
        self._compare()
        support = self._samples.support
        if self.frozen or len(support.x) < self._needed or self._learned_from == self._samples.entered:
            return
        if self._specs[1].fields and at_rest(self._scale, *support):  # labels have no fields, and may be the same
            self.tally.rested, self._learned_from = self.tally.rested + 1, self._samples.entered
            return
        result = self._learner.adapt(
            *support,
            start=self._start,
            held_out=self._samples.held_out,
            guard=self._guard,
            recorder=self._recorder,
        )
        self.tally.count(result.refusal, result.seconds, cleaned=bool(result.left_out))
        self.result, self._learned_from = result, self._samples.entered

    def begin_task(self, task: int) -> None:
        """Forget what was learned and observed before: `v0` acts, and the window is empty."""
        self._compare()  # what was predicted before the change
        self.task = task
        self._samples.clear()
        self._latest, self._learned_from = -np.inf, self._samples.entered
        if self._recorder:
            self._recorder.reset(pending=True)
        self._learner.reset()
        if self._recorder:
            self._recorder.swapped()

    def _compare(self) -> None:
        """Compare the predictions of the new samples, from which the model has not learned yet."""
        if self.comparison and self._new:
            x, y = map(np.stack, zip(*self._new, strict=True))
            self._new.clear()
            # a copy, which counts no value outside its bounds: the robot did not ask for these predictions
            self.comparison.add(_predict(copy.copy(self._learner), x), _predict(self._v0, x), y)
        if self.holding:
            self.holding.decide()


def _predict(model: AdaptiveModel, x: NDArray) -> NDArray:
    """Predict a few samples one by one, and many at once."""
    if len(x) < _ROWS // 4:
        return np.stack([model.predict(each) for each in x])
    padded = np.concatenate([x, np.repeat(x[-1:], -len(x) % _ROWS, 0)])
    parts = [model.predict(padded[first : first + _ROWS]) for first in range(0, len(padded), _ROWS)]
    return np.concatenate(parts)[: len(x)]
