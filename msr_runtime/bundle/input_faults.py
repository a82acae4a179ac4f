"""Evidence that one number of x is at fault, gathered alike by the exporter and by the robot.

A weak actuator acts as if its command were smaller: number j of x counts `1 + g` times, with a gain g. A sensor that is
off shows x without an offset o. To first order, such a fault moves y by `g x_j dy/dx_j` or by `o dy/dx_j`. The evidence
for it is how much the best g or o raises twice the log likelihood of the innovations, with a normal prior on it.

A fault that moves all alike, as a symmetry does, is learned by the filter and leaves no evidence.

Source: Willsky and Jones, "A Generalized Likelihood Ratio Approach to the Detection and Estimation of Jumps in Linear
Systems", 1976.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from msr_runtime.task import Predict

STEP = 0.02
"""How far each number of x is moved to see what it does, as a share of its scale."""
MOST_INPUTS = 64
"""Most numbers of x that are watched. Each of them costs one more prediction a sample."""
_PRIOR = 0.3
"""Standard deviation of the prior: of a gain, and of an offset as a share of the number's scale."""
_LARGEST = 5.0
"""The largest error that counts, in standard deviations. One outlier is no fault of an input."""


def slopes(predict: Predict, x: NDArray, scale: NDArray) -> NDArray:
    """Return how the outputs change with each number of one sample, per scale of the number, `(inputs, outputs)`.

    Args:
        predict: The network, from x `(batch, inputs)` to y.
        x: `(inputs,)`.
        scale: That of each number.

    """
    y = predict(np.concatenate([x[None], x + np.diag(STEP * scale)]).astype(np.float32)).reshape(len(x) + 1, -1)
    return (y[1:] - y[0]) / STEP


@dataclass(frozen=True)
class Fit:
    """What one sample, or several together, say of an offset of each number of x."""

    pull: NDArray
    """The slope of the log likelihood in the offset, `(..., inputs)`, per scale."""
    weight: NDArray
    """Minus its curvature, `(..., inputs)`, per squared scale."""

    @classmethod
    def of(cls, errors: NDArray, variances: NDArray, slopes: NDArray) -> Self:
        """Look at one sample.

        The arguments may also be tensors of torch.

        Args:
            errors: The innovation, `(outputs,)`.
            variances: What was expected of it, `(outputs,)`.
            slopes: The slopes of the outputs, `(inputs, outputs)`, per scale of the input.

        """
        deviations = variances**0.5
        return cls(slopes @ ((errors / deviations).clip(-_LARGEST, _LARGEST) / deviations), slopes**2 @ (1 / variances))

    def both(self, x: NDArray) -> "Fit":
        """Return the same for gains and offsets, `(..., 2, inputs)`. x is in scales, and not centered."""
        return Fit(np.stack([self.pull * x, self.pull], -2), np.stack([self.weight * x**2, self.weight], -2))

    def __add__(self, other: "Fit") -> "Fit":
        return Fit(self.pull + other.pull, self.weight + other.weight)

    def evidence(self) -> NDArray:
        """Return the evidence for each fault, of the shape of `pull`."""
        return self.pull**2 / (self.weight + 1 / _PRIOR**2)
