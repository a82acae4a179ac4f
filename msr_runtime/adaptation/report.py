"""The figures of an OnlineAdapter."""

from dataclasses import dataclass

from msr_runtime.adaptation.comparison import Helping
from msr_runtime.adaptation.family import FamilyVerdict
from msr_runtime.adaptation.input_faults import FaultVerdict
from msr_runtime.adaptation.update_guard import Refusal
from msr_runtime.inference.input_bounds import Outside, listed


@dataclass(frozen=True)
class OnlineReport:
    """What an OnlineAdapter did so far. A figure without data is NaN. `print` shows it in two lines, or more."""

    tried: int
    """Adaptations computed: `accepted` plus all of `refused`."""
    accepted: int
    """Adaptations whose weights were put to work."""
    cleaned: int
    """Those of them that left out samples which spoil them, see `AdaptResult.left_out`."""
    refused: dict[str, int]
    """Refused adaptations by reason, see `Refusal`. The reason `Refusal.HELD_OUT` is no fault: the weights that act are
    already better. Every other reason says that samples are wrong."""
    rested: int
    """Adaptations that were left out because the robot rests: the same y and hardly another x in the whole window. They
    are not among `tried`."""
    seconds_p50: float
    """Median time of the latest 1024 adaptations, in s."""
    seconds_p95: float
    """95th percentile of the same times, in s."""
    weights_age: float
    """Time since the latest accepted adaptation, in s."""
    observed: int
    """Samples that the adaptation thread has counted: entered, left out or dropped."""
    entered: int
    """Samples that entered the window."""
    left_out: dict[str, int]
    """Samples that did not enter, by reason, see `LeftOut`."""
    dropped: int
    """Samples that the full queue dropped before the adaptation thread could collect them."""
    waiting: int
    """Samples in the queue, which the adaptation thread has not collected yet."""
    outside: Outside
    """Observed samples with a value outside the bounds of its field, by side and field, see `AdaptResult.outside`."""
    predicted_outside: Outside
    """The same of the observations that `predict` got. Empty unless the model was loaded with `check_inputs`."""
    error: str | None
    """The error that ended the adaptation thread; None if there was none."""
    open: int = 0
    """Observed x whose y has not come yet."""
    late: int = 0
    """Samples that entered after a sample of a later time."""
    tasks: int = 1
    """Tasks so far: one more than the calls of `OnlineAdapter.task_changed`."""
    restarts: int = 0
    """Changes of the task that samples showed: what was learned before was forgotten, see `detect_changes`."""
    frozen: bool = False
    """Whether nothing is learned, see `OnlineAdapter.freeze`."""
    helping: Helping | None = None
    """Whether adapting helps here. None if nothing is compared."""
    holds_v0: bool = False
    """Whether `v0` acts because adapting hurts, see `UpdateGuard.hold_v0`."""
    family: FamilyVerdict | None = None
    """Whether the latest samples look like those of a task of meta-training. None unless the model learns sample by
    sample."""
    fault: FaultVerdict | None = None
    """Whether one number of x is at fault, such as the command of a weak actuator. None unless the model learns sample
    by sample, and its bundle knows how clean tasks look."""

    def __str__(self) -> str:
        error = f"\nadapting ended: {self.error}" if self.error else ""
        outside = f"\noutside   {_list(self.outside)}" if self.outside else ""
        outside += f"\npredicted outside {_list(self.predicted_outside)}" if self.predicted_outside else ""
        faults = {name: count for name, count in self.refused.items() if name != Refusal.HELD_OUT}
        better = self.refused.get(Refusal.HELD_OUT, 0)
        cleaned = f" ({self.cleaned} without samples that spoil them)" if self.cleaned else ""
        kept = f", {better} not needed (the acting weights fit as well or better)" if better else ""
        rested = f", {self.rested} left out at rest" if self.rested else ""
        state = f", changes of the task noticed: {self.restarts}" if self.restarts else ""
        state += ", frozen" if self.frozen else ""
        state += ", v0 acts, because adapting hurts" if self.holds_v0 else ""
        late = f", {self.late} late" if self.late else ""
        late += f", {self.open} without y so far" if self.open else ""
        helping = f"\nerrors    {self.helping}" if self.helping and self.helping.samples else ""
        family = f"\ntask      {self.family}" if self.family and self.entered else ""
        family += f"\ninputs    {self.fault}" if self.fault and self.entered else ""
        return (
            f"updates   {self.tried} tried, {self.accepted} accepted{cleaned}{kept}, refused: {_list(faults)}{rested}; "
            f"p50 {1e3 * self.seconds_p50:.3f} ms, p95 {1e3 * self.seconds_p95:.3f} ms, "
            f"weights {self.weights_age:.2f} s old{state}\n"
            f"samples   {self.observed} observed, {self.entered} entered, left out: {_list(self.left_out)}, "
            f"{self.dropped} dropped, {self.waiting} waiting{late}{helping}{family}{outside}{error}"
        )


def _list(counts: dict[str, int]) -> str:
    return listed(counts) or "none"
