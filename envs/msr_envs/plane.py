"""Vectors in the plane."""

import numpy as np
from numpy.typing import NDArray


def turn(vector: NDArray, angle: NDArray | float) -> NDArray:
    """Turn vectors `(..., 2)` counter-clockwise by `angle` `(...)` in rad."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * vector[..., 0] - sin * vector[..., 1], sin * vector[..., 0] + cos * vector[..., 1]], -1)
