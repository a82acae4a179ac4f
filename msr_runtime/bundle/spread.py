"""How far the inputs of a support set lie apart: it tells which of the measured limits hold for it."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def spread(scale: NDArray, x: NDArray) -> float:
    """Return the variance of each normalized number of x over the samples, averaged over the numbers.

    Args:
        scale: The scale of x, `Normalization.input_scale`, as an array.
        x: `(samples, *x)` in raw units.
    """
    # The center of the normalization moves all samples alike, so that it drops out. Products in place of `mean` and
    # `var`, which take several times as long for few samples.
    exact = x.reshape(len(x), -1).astype(np.float64)
    moved = exact - _shares(len(x)).dot(exact)
    moved = moved.reshape(x.shape) / scale
    return float(np.vdot(moved, moved)) / moved.size


@lru_cache(32)
def _shares(samples: int) -> NDArray[np.float64]:
    """What each sample counts in their mean."""
    return np.full(samples, 1 / samples)
