"""The constants of all graphs of a bundle: each is stored once, the symmetry matrices as the C code reads them."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_c.graphs.precision import Stored, stored


class Symmetry(NamedTuple):
    """A symmetry matrix U, row by row as the C code reads it: a row for each filter parameter."""

    name: str
    rows: NDArray
    """`(k, numbers of the weight)`, float32. A matrix of weights `(outputs, inputs)` is stored transposed."""
    weight: tuple[int, ...]
    """The shape of the weight as it is stored."""
    stored: Stored
    """The rows as the C code stores them."""


class Constants:
    """Arrays by name. Equal arrays share a name."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray] = {}
        """Name to float or int array."""
        self.symmetries: dict[str, Symmetry] = {}
        """Name to symmetry matrix."""
        self._names: dict[tuple[str, bytes], str] = {}

    def name(self, value: NDArray) -> str:
        """Return the name of an array, which is kept."""
        key = value.dtype.str, value.tobytes()
        if key not in self._names:
            self._names[key] = f"constant_{len(self.arrays)}"
            self.arrays[self._names[key]] = value
        return self._names[key]

    def symmetry(self, rows: NDArray, weight: Iterable[int], name: str) -> Symmetry:
        """Return a symmetry matrix, which is kept.

        Args:
            rows: `(k, numbers of the weight)`.
            weight: The shape of the weight as it is stored.
            name: How it is called if it is new.
        """
        found = self.find(rows)
        if found is None:
            rows = np.ascontiguousarray(rows, np.float32)
            found = Symmetry(name, rows, tuple(weight), stored(rows))
            self.symmetries[name] = found
            self._names["U", found.rows.tobytes()] = name
        return found

    def find(self, rows: NDArray) -> Symmetry | None:
        """Return the symmetry matrix with these rows, if it is known."""
        name = self._names.get(("U", np.ascontiguousarray(rows, np.float32).tobytes()))
        return self.symmetries[name] if name else None
