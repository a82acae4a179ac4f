"""How far the inputs of a support set lie apart: it tells which of the measured limits hold for it."""

import numpy as np
from numpy.typing import NDArray

from msr_runtime.normalization import Normalization


def spread(normalization: Normalization, x: NDArray) -> float:
    """Return the variance of each normalized number of x over the samples, averaged over the numbers.

    Args:
        normalization: Center and scale of x.
        x: `(samples, *x)` in raw units.
    """
    return float(normalization.normalize_x(x).var(0, dtype=np.float64).mean())
