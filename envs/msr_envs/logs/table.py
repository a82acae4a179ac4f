"""A table of a log: columns by name, each with one number, one vector or one text per row."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import FamilyError

Floats = NDArray[np.float64]

_DECIMAL_COMMA = re.compile(r"\s*-?\d+,\d+([eE][-+]?\d+)?\s*")


class Table(Protocol):
    """The rows of one file."""

    path: Path
    """The file."""
    rows: int
    """The number of rows."""

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        ...

    def numbers(self, column: str) -> Floats:
        """Return a column as `(rows, n)`: n is 1, or the length of its vectors. Nothing is NaN.

        Raises:
            FamilyError: The column holds text, or vectors of different lengths.
        """
        ...

    def texts(self, column: str) -> NDArray[np.str_]:
        """Return a column that names something as `(rows,)`."""
        ...


class Arrays:
    """A table of numpy arrays, `(rows,)` or `(rows, n)` each."""

    def __init__(self, path: Path, arrays: Mapping[str, NDArray]) -> None:
        self.path, self._arrays = path, arrays
        lengths = {name: len(array) for name, array in arrays.items()}
        self.rows = min(lengths.values(), default=0)
        for name, length in lengths.items():
            if length != self.rows:
                fail(
                    path, f"column '{name}' has {length} rows, but another has {self.rows}; all columns share the rows"
                )

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return list(self._arrays)

    def numbers(self, column: str) -> Floats:
        """Return a column as `(rows, n)`."""
        array = self._arrays[column]
        if array.dtype.kind not in "fiub" or array.ndim > 2:
            fail(
                self.path,
                f"column '{column}' holds {array.dtype} of shape {array.shape}, but one number or one vector per row "
                "is wanted",
            )
        return array.astype(np.float64).reshape(len(array), -1)

    def texts(self, column: str) -> NDArray[np.str_]:
        """Return a column that names something as `(rows,)`."""
        array = self._arrays[column]
        if array.ndim != 1:
            fail(self.path, f"column '{column}' has the shape {array.shape}, but it must name one thing per row")
        return array.astype(str)


def refuse_text(path: Path, column: str, row: int, text: str) -> NoReturn:
    """Raise FamilyError for a text where a number is wanted; `row` counts from 1."""
    hint = "leave the column out, or mend the file"
    if row == 1:
        hint = "if a line below the header names the units, delete it; else leave the column out, or mend the file"
    if not any(letter.isalnum() for letter in text):
        hint = "if it stands for a value that is missing, leave the cell empty"
    if _DECIMAL_COMMA.fullmatch(text):
        hint = "it is written with a decimal comma: export the log again with a decimal point"
    fail(path, f"column '{column}' holds the text '{text[:40]}' in row {row}, but numbers are wanted; {hint}")


def fail(path: Path, message: str) -> NoReturn:
    """Raise FamilyError with the log's path before the message."""
    raise FamilyError(f"log '{path}': {message}")
