"""The result of one update."""

from dataclasses import dataclass, field

import numpy as np

from msr_runtime.adaptation.update_guard import Refusal
from msr_runtime.inference.input_bounds import Outside
from msr_runtime.task import Array


@dataclass(frozen=True)
class UpdateResult:
    """What one update did. `AdaptiveModel.update` returns it."""

    accepted: bool
    """True if the model learned from the sample. If False, it is as it was, and no time has passed for it."""
    innovation: Array
    """y minus the prediction before the update, `(*y)`, float32, in raw units. NaN if nothing was computed."""
    variance: Array
    """The variance that was expected of each innovation, `(*y)`, float32, in squared raw units: because v is not known
    exactly, and because y is noisy. NaN if nothing was computed."""
    nis: float
    """The normalized innovation squared, over all numbers of y together. On average it is their number, if the model
    knows how sure it is: far more says that the task is unlike those of meta-training, or that it changed. NaN if
    nothing was computed."""
    seconds: float
    """Duration of the whole call in s, from checking the sample to the swap of the weights."""
    reason: str | None = None
    """Why the update was refused, as a sentence; None if it was accepted."""
    refusal: Refusal | None = None
    """Why the update was refused, as a name to count by; None if it was accepted."""
    outside: Outside = field(default_factory=dict)
    """Whether the sample has a value outside the bounds of its field, by side and field: `{"x.goal": 1}`."""

    @property
    def deviation(self) -> Array:
        """The standard deviation that was expected of each innovation, `(*y)`, in raw units."""
        return np.sqrt(self.variance)
