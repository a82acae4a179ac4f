"""What `OnlineAdapter` needs of a recorder. `msr_runtime.Recorder` has it."""

from typing import Protocol

from numpy.typing import NDArray

from msr_runtime.adaptation.report import OnlineReport
from msr_runtime.adaptation.weights_recorder import WeightsRecorder


class SampleRecorder(WeightsRecorder, Protocol):
    """Stores the samples and adaptations of a model, as `msr_runtime.Recorder` does. No method may block."""

    def sample(self, x: NDArray, y: NDArray) -> None:
        """Store one observed sample, x `(*x)` and y `(*y)` in raw units."""
        ...

    def held(self, *, held: bool) -> None:
        """Store that `v0` is about to act although the model goes on learning, or that what it learned is, again.

        The weights change before `swapped` is called.
        """
        ...

    def online(self, report: OnlineReport) -> None:
        """Store a report. It comes once a second, and at the end."""
        ...
