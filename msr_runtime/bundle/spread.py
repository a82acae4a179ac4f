"""How far the inputs of a support set lie apart: it tells which of the measured limits hold for it."""

import numpy as np
from numpy.typing import NDArray


def spread(scale: NDArray, x: NDArray) -> float:
    """Return the variance of each normalized number of x over the samples, averaged over the numbers.

    Args:
        scale: The scale of x, `Normalization.input_scale`, as an array.
        x: `(samples, *x)` in raw units.
    """
    # The center of the normalization moves all samples alike, so that it drops out. Sums in place of `mean` and `var`,
    # which take several times as long for few samples.
    exact = x.astype(np.float64)
    moved = (exact - np.add.reduce(exact, 0) / len(x)) / scale
    return float(np.vdot(moved, moved)) / moved.size
