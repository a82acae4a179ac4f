"""Store a constant in the smallest type that holds it to the last bit: float16, int8 with scales, or float32.

The exporter rounds U before it traces a graph, and stores in the graph what a smaller type holds exactly. So what a
bundle has in fewer bytes, the C code has in fewer bytes too, however a graph has turned it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.bundle.rounding import Precision, as_rows


class Stored(NamedTuple):
    """A symmetry matrix as the C code stores it."""

    precision: Precision
    numbers: NDArray
    """`(k, numbers of the weight)`: float32, the bits of float16 as uint16, or int8."""
    scales: NDArray | None = None
    """`(numbers of the weight,)`, float32: what the numbers of a column are times. None but for int8."""


def stored(rows: NDArray) -> Stored:
    """Find how a symmetry matrix `(k, numbers of the weight)`, float32, is stored."""
    found = as_rows(np.ascontiguousarray(rows.T), len(rows))
    if found:
        q, scales = found
        return Stored("int8", np.ascontiguousarray(q.T), scales.ravel())
    with np.errstate(over="ignore"):
        half = rows.astype(np.float16)
    if np.array_equal(half.astype(np.float32), rows):
        return Stored("float16", half.view(np.uint16))
    return Stored("float32", rows)
