"""Learning from a window of the latest samples: each adaptation is a batch."""

from numpy.typing import NDArray

from msr_runtime.adaptation.inbox import Change
from msr_runtime.adaptation.learning import Learning
from msr_runtime.adaptation.measured import Measured
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.repeats import at_rest
from msr_runtime.adaptation.result import AdaptResult
from msr_runtime.adaptation.sample_recorder import SampleRecorder
from msr_runtime.adaptation.sample_window import SampleWindow
from msr_runtime.adaptation.start import Start
from msr_runtime.adaptation.update_guard import UpdateGuard
from msr_runtime.arrays import norm
from msr_runtime.errors import InputError
from msr_runtime.task import Array


class WindowLearning(Learning):
    """Adapts a model to the window as soon as something new is in it.

    Args:
        model: As in `Learning`.
        window: As in `Learning`.
        guard: As in `Learning`.
        compare: As in `Learning`.
        recorder: As in `Learning`.
        start: Where an adaptation begins.
        needed: Samples below which nothing is adapted.
        detect_changes: Whether to forget the samples of the task before where the newest show that it changed.

    Raises:
        InputError: As `Learning` and `UpdateGuard.limits`, or if the model does not take such a window.
    """

    def __init__(
        self,
        model: AdaptiveModel,
        window: SampleWindow,
        guard: UpdateGuard,
        compare: float | None,
        recorder: SampleRecorder | None,
        start: Start,
        needed: int,
        detect_changes: bool,
    ) -> None:
        manifest = model.manifest
        if model.most_samples is not None and window.size > model.most_samples:
            raise InputError(
                f"window is {window.size}, but the model's native code takes at most {model.most_samples} samples: "
                f"take a smaller window, or compile it for more (`msr compile --shots {window.size}`)"
            )
        measured = Measured(manifest)
        # raise an error of the guard here, in the caller, not in a thread
        guard.limits(measured, manifest.inner_steps, start, norm(model.bundle.start()["v"]))
        super().__init__(model, window, guard, compare, recorder)
        self._start: Start = start
        self._detect_changes = detect_changes
        self._needed, self._scale, self._learned_from = needed, measured.scale, 0
        self.result: AdaptResult | None = None
        """The result of the latest adaptation."""

    def _take(self, x: Array, y: NDArray, at: float) -> bool:  # noqa: ARG002 - a batch has no times
        if self.comparison:
            self._new.append((x, y))
        return True

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
            in_order=self._detect_changes,
        )
        changed = result.begins if result.accepted else None
        self.tally.count(result.refusal, result.seconds, cleaned=bool(result.left_out) and changed is None)
        if changed is not None:
            self.restarts += 1
            self._samples.keep_newest(len(support.x) - changed)
        self.result, self._learned_from = result, self._samples.entered

    def begin_task(self, change: Change) -> None:
        """As `Learning.begin_task`. Nothing in the window is new."""
        super().begin_task(change)
        self._learned_from = self._samples.entered
