"""Store U in fewer bytes: as float16, or as int8 with a scale for each number of the weight."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Stored(NamedTuple):
    """A symmetry matrix as the C code stores it."""

    numbers: NDArray
    """`(k, numbers of the weight)`: float32, the bits of float16 as uint16, or int8."""
    scales: NDArray | None
    """`(numbers of the weight,)`, float32: what the numbers of a column are times. None for the other stores."""
    rounded: NDArray
    """The matrix that they stand for, float32."""


def stored(rows: NDArray, store: str) -> Stored:
    """Round a symmetry matrix `(k, numbers of the weight)`.

    Args:
        rows: The matrix, float32.
        store: `float32`, `float16` or `int8`.
    """
    if store == "float16":
        half = rows.astype(np.float16)
        return Stored(half.view(np.uint16), None, half.astype(np.float32))
    if store == "int8":
        largest = np.abs(rows).max(axis=0)
        scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        numbers = np.rint(rows / scales).astype(np.int8)
        return Stored(numbers, scales, numbers * scales)
    return Stored(rows, None, rows)
