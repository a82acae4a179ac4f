"""What an adaptation needs of a recorder. `msr_runtime.Recorder` has it."""

from typing import Protocol

from numpy.typing import ArrayLike, NDArray

from msr_runtime.adaptation.result import AdaptResult
from msr_runtime.adaptation.start import Start
from msr_runtime.task import Array


class WeightsRecorder(Protocol):
    """Stores what changes the weights of a model. No method may block."""

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
        """Store one adaptation.

        Args:
            support_x: `(shots, *x)` in raw units; a view, valid during the call only.
            support_y: `(shots, *y)` in raw units; a view, valid during the call only.
            result: What the adaptation did.
            v: The filter parameters that act after it, `(1, K)`.
            start: Where its inner loop began.
            pending: The new weights do not act yet. They do when `swapped` is called.
        """
        ...

    def update(self, x: NDArray, y: NDArray, elapsed: float) -> None:
        """Store that the model learns from one sample, with the rule `recursive`. Then `swapped` is called.

        Args:
            x: `(*x)` in raw units.
            y: `(*y)` in raw units.
            elapsed: The time since the update before, in s.
        """
        ...

    def reset(self, *, inflate: float | None = None, pending: bool = False) -> None:
        """Store that a new task begins.

        Args:
            inflate: The factor by which the model is less sure of what it learned. None: `v0` acts.
            pending: The model changes before `swapped` is called, and not yet.
        """
        ...

    def swapped(self) -> None:
        """Store that the weights of the latest change, which was pending, act by now."""
        ...
