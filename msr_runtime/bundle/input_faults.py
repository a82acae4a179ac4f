"""Evidence that one number of x is at fault, gathered alike by the exporter and by the robot.

A weak actuator acts as if its command were smaller: number j of x counts `1 + g` times, with a gain g. A sensor that is
off shows x minus an offset o. To first order, such a fault moves y by `g x_j dy/dx_j` or by `o dy/dx_j`. The evidence
for it is how much the best g or o raises twice the log likelihood of the innovations, with a normal prior on it.

A filter may expect too much or too little, so variances are corrected by what is usual after as many samples of a task.
Where innovations are larger still, the sensors are noisier, or the network is worse, than in meta-training. Then any
fault would explain a part of them. So all variances may also be larger than usual, by the factor that fits best, with
the fault and without it. A fault has much evidence only if it leaves much less to be explained by noise.

A fault that is the same in all parts that the symmetry exchanges is learned by the filter. It leaves no evidence.

Source: Willsky and Jones, "A Generalized Likelihood Ratio Approach to the Detection and Estimation of Jumps in Linear
Systems", 1976.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEP = 0.02
"""How far each number of x is moved to see what it does, as a share of its scale."""
MOST_INPUTS = 64
"""Most numbers of x that are watched. Each of them costs one more prediction a sample."""
_PRIOR = 0.3
"""Standard deviation of the prior: of a gain, and of an offset as a share of the number's scale."""
_LARGEST = 5.0
"""The largest error that counts, in standard deviations. One outlier is no fault of an input."""


def steps_of(scale: NDArray) -> NDArray[np.float32]:
    """Return how far x is moved to see what it does: not at all, then one number after another.

    Args:
        scale: That of each number of x, `(inputs,)`.

    Returns:
        In the unit of the scale, `(1 + inputs, inputs)`.

    """
    return np.concatenate([np.zeros((1, len(scale))), np.diag(STEP * scale)]).astype(np.float32)


def slopes(predict: Callable[[Any], Any], x: Any, steps: Any) -> Any:
    """Return how the outputs change with each number of x, per scale of the number, `(..., inputs, outputs)`.

    All may be arrays of NumPy or tensors of torch.

    Args:
        predict: The network, from x `(..., 1 + inputs, inputs)` to y `(..., 1 + inputs, outputs)`.
        x: `(..., inputs)`.
        steps: What `steps_of` returns.

    """
    y = predict(x[..., None, :] + steps)
    return (y[..., 1:, :] - y[..., :1, :]) / STEP


@dataclass(frozen=True)
class Fit:
    """What one sample, or several together, say of an offset of each number of x."""

    pull: NDArray
    """The slope of the log likelihood in the offset, `(..., inputs)`, per scale."""
    weight: NDArray
    """Minus its curvature, `(..., inputs)`, per squared scale."""
    squares: NDArray
    """The squared errors over what was expected of them, summed over the numbers of y, `(..., 1)`."""

    @classmethod
    def of(cls, errors: NDArray, variances: NDArray, slopes: NDArray) -> Self:
        """Look at one sample, or at many.

        The arguments may also be tensors of torch.

        Args:
            errors: The innovation, `(..., outputs)`.
            variances: What was expected of it, `(..., outputs)`.
            slopes: The slopes of the outputs, `(..., inputs, outputs)`, per scale of the input.

        """
        deviations = variances[..., None, :] ** 0.5
        error, slope = (errors[..., None, :] / deviations).clip(-_LARGEST, _LARGEST), slopes / deviations
        return cls((slope * error).sum(-1), (slope**2).sum(-1), (error**2).sum(-1))

    def both(self, x: NDArray) -> "Fit":
        """Return the same for gains and offsets, `(..., 2, inputs)`. x is in scales, and not centered."""
        pull, weight = np.stack([self.pull * x, self.pull], -2), np.stack([self.weight * x**2, self.weight], -2)
        return Fit(pull, weight, self.squares[..., None])

    def __add__(self, other: "Fit") -> "Fit":
        return Fit(self.pull + other.pull, self.weight + other.weight, self.squares + other.squares)

    def over(self, usual: ArrayLike) -> "Fit":
        """Return the same with all variances multiplied, such as by what `usual_nis` returns."""
        return Fit(self.pull / usual, self.weight / usual, self.squares / usual)

    def evidence(self, numbers: Any) -> NDArray:
        """Return the evidence for each fault, of the shape of `pull`.

        Args:
            numbers: Of how many numbers of y the squares are the sum.

        """
        explained = self.pull**2 / (self.weight + 1 / _PRIOR**2)
        # A sum of squares with the factor that fits best, 1 or more, has this likelihood but for what both have.
        without, left = self.squares / numbers, (self.squares - explained) / numbers
        noise, noise_left = np.maximum(without, 1.0), np.maximum(left, 1.0)
        return numbers * (np.log(noise / noise_left) + without / noise - left / noise_left)


def by_count(counts: Sequence[int], figures: NDArray) -> NDArray:
    """Return figures for each number of samples, from 1 to the last count.

    Args:
        counts: Numbers of samples, rising.
        figures: The figures that were measured after as many, `(counts, ...)`. Between two of them, the larger ones
            hold, and before the first, its own.

    Returns:
        `(last count, ...)`.

    """
    every = range(1, counts[-1] + 1)
    fewer = [max(bisect_right(counts, count) - 1, 0) for count in every]
    return np.maximum(figures[fewer], figures[[bisect_left(counts, count) for count in every]])
