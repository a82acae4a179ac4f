"""Checks on arrays that several packages share."""

import math

import numpy as np

from msr_runtime.errors import InputError
from msr_runtime.task import Array

FLOAT32 = np.dtype(np.float32)
"""The float32 dtype, as one object. `dtype is FLOAT32` is the fastest check of a dtype."""


def all_finite(flat: Array) -> bool:
    """Return whether every number of a float32 array `(n,)` is finite."""
    # vdot reads the array once and allocates nothing. dot would warn where the sum of squares overflows.
    # Large finite values overflow too, so an infinite sum is checked again, number by number.
    return math.isfinite(np.vdot(flat, flat)) or bool(np.isfinite(flat).all())


def norm(array: Array) -> float:
    """Return the Euclidean norm of a float32 array. It is infinite where the sum of squares overflows."""
    return math.sqrt(np.vdot(array, array))  # without a warning, and in a fraction of the time of `linalg.norm`


def refuse_masked(name: str, value: object) -> None:
    """Refuse a masked array, and a list of them.

    Raises:
        InputError: numpy would drop the mask, and the numbers below it would count as measured.
    """
    parts = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        raise InputError(
            f"{name} is a masked array, but its mask would be ignored and the numbers below it taken as measured; give "
            "a plain array: `array.filled(...)` with numbers that you trust, or leave masked samples out"
        )


def relative_error(seen: Array, wanted: Array) -> float:
    """Return the largest absolute difference, divided by the largest absolute value of `wanted`.

    The result is infinity if the shapes differ or if a difference is NaN.
    """
    if seen.shape != wanted.shape:
        return math.inf
    exact = wanted.astype(np.float64)  # float64: the difference of two large numbers cannot overflow
    # the smallest normal float32 keeps the division defined where `wanted` is all zeros
    scale = max(np.abs(exact).max(initial=0), float(np.finfo(np.float32).tiny))
    error = float(np.abs(seen - exact).max(initial=0) / scale)
    return math.inf if math.isnan(error) else error
