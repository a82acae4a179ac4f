"""Which weights act while a model learns: those that it learned, or those of v0 where adapting hurts."""

from numpy.typing import ArrayLike, NDArray

from msr_runtime.adaptation.comparison import Comparison, Verdict
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.result import AdaptResult
from msr_runtime.adaptation.sample_recorder import SampleRecorder
from msr_runtime.adaptation.start import Start
from msr_runtime.task import Array


class Holding:
    """Lets the acting model follow the one that learns, except while adapting hurts: then `v0` acts.

    The model that learns goes on, so that the comparison can tell when adapting helps again. To that model this object
    is the recorder: it hands on what changes the acting weights.

    Args:
        acting: The model that acts.
        learner: The model that learns, on the same sessions.
        comparison: The comparison of the learner with `v0`.
        recorder: Gets what happens.
    """

    def __init__(
        self, acting: AdaptiveModel, learner: AdaptiveModel, comparison: Comparison, recorder: SampleRecorder | None
    ) -> None:
        self._acting, self._learner, self._comparison, self._recorder = acting, learner, comparison, recorder
        self.held = False
        """Whether `v0` acts because adapting hurts."""

    def decide(self) -> None:
        """Hold `v0`, or let it go, by what the comparison says now."""
        found = self._comparison
        if not (found.better if self.held else found.now.verdict is Verdict.HURTS):
            return
        self.held = not self.held
        if self._recorder:
            self._recorder.held(held=self.held)
        if self.held:
            self._acting.reset()
        else:
            self._acting.follow(self._learner)
        if self._recorder:
            self._recorder.swapped()

    def adaptation(
        self,
        support_x: ArrayLike,
        support_y: ArrayLike,
        result: AdaptResult,
        v: Array,
        start: Start = "v0",
        *,
        pending: bool = False,
    ) -> None:
        """Record an adaptation of the learner."""
        if self._recorder:
            self._recorder.adaptation(support_x, support_y, result, v, start, pending=pending)

    def update(self, x: NDArray, y: NDArray, elapsed: float) -> None:
        """Record an update of the learner."""
        if self._recorder:
            self._recorder.update(x, y, elapsed)

    def reset(self, *, inflate: float | None = None, pending: bool = False) -> None:
        """Record a new task of the learner."""
        if self._recorder:
            self._recorder.reset(inflate=inflate, pending=pending)

    def swapped(self) -> None:
        """Let the latest weights of the learner act, unless `v0` is held."""
        if not self.held:
            self._acting.follow(self._learner)
        if self._recorder:
            self._recorder.swapped()
