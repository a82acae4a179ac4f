"""From columns to fields: find the columns that a field names, and compute what the field says of them."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from msr_envs.logs.description import LogField
from msr_envs.logs.table import Floats, Table, fail
from msr_runtime.errors import FamilyError

_ELEMENT = re.compile(r"(?P<column>.+)\[(?P<index>\d+)\]")
_SHOWN = 8


class Source(NamedTuple):
    """The numbers of one column that a field takes."""

    column: str
    part: slice
    """Which numbers of each row."""


class Columns:
    """The columns of one table, read once each.

    Args:
        table: The table.
        names: The names of the numbers of columns that hold vectors, where they are known.

    """

    def __init__(self, table: Table, names: Mapping[str, Sequence[str]]) -> None:
        self.table, self._names = table, names
        self._read: dict[str, Floats] = {}

    @property
    def used(self) -> set[str]:
        """The names of the columns that were read."""
        return set(self._read)

    def numbers(self, source: Source) -> Floats:
        """Return the numbers of a source, `(rows, n)`."""
        return self._column(source.column)[:, source.part]

    def find(self, wanted: Sequence[str], what: str) -> list[Source]:
        """Return the sources that names and patterns stand for, in order.

        Args:
            wanted: Names of columns, patterns, or single numbers of a column: `state[2]` or `state.elbow`.
            what: What wants them, for the message.

        Raises:
            FamilyError: Nothing has the name. The message offers near ones.

        """
        return [source for name in wanted for source in self._find(name, what)]

    def element_names(self, source: Source) -> list[str]:
        """Return a name for each number of a source."""
        width = self._column(source.column).shape[1]
        known = self._names.get(source.column, ())
        if width == 1:
            names = [source.column]
        elif len(known) == width:
            names = list(known)
        else:
            names = [f"{source.column}[{i}]" for i in range(width)]
        return names[source.part]

    def single(self, name: str, what: str) -> Floats:
        """Return a single column as `(rows,)`."""
        numbers = np.concatenate([self.numbers(source) for source in self.find([name], what)], 1)
        if numbers.shape[1] != 1:
            fail(
                self.table.path,
                f"{what} names '{name}', which holds {numbers.shape[1]} numbers a row, but one is wanted",
            )
        return numbers[:, 0]

    def _column(self, name: str) -> Floats:
        if name not in self._read:
            self._read[name] = self.table.numbers(name)
        return self._read[name]

    def _find(self, name: str, what: str) -> list[Source]:
        columns = self.table.columns
        if name in columns:
            return [Source(name, slice(None))]
        if (found := _ELEMENT.fullmatch(name)) and found["column"] in columns:
            index, width = int(found["index"]), self._column(found["column"]).shape[1]
            if index >= width:
                fail(self.table.path, f"{what} names '{name}', but the column holds {width} numbers, from 0")
            return [Source(found["column"], slice(index, index + 1))]
        for column, names in self._names.items():
            if column in columns and name.removeprefix(f"{column}.") in names and name.startswith(f"{column}."):
                index = list(names).index(name.removeprefix(f"{column}."))
                return [Source(column, slice(index, index + 1))]
        if matches := matching(name, columns):
            return [Source(match, slice(None)) for match in matches]
        raise FamilyError(f"log '{self.table.path}': {what} wants the column '{name}', {near(name, columns)}")


def matching(pattern: str, names: Sequence[str]) -> list[str]:
    """Return the names that a pattern stands for: `*` is any text, and `?` any character."""
    form = re.compile("".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern), re.DOTALL)
    return [name for name in names if form.fullmatch(name)]


def near(name: str, names: Sequence[str]) -> str:
    """Say that a name is not there, and which ones are."""
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    if not close:
        low = name.lower()
        close = [each for each in names if each.lower() == low or low in each.lower() or each.lower() in low][:2]
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"but there are {shown or 'none'}.{hint}"


def derive(field: LogField, values: Floats, *, ahead: int, before: int, yaw: Floats | None) -> Floats:
    """Return what a field holds at each row.

    Args:
        field: What to compute.
        values: Its columns in one drive, `(rows, n)`.
        ahead: How many rows after the present the value stands; below zero, before it.
        before: How many rows after the present the value stands with which a difference compares.
        yaw: The yaw of each row in rad, for the body's frame.

    Returns:
        `(rows, m)`, with NaN where a row is needed that the drive does not have.

    """
    found = _shifted(values, ahead)
    if field.difference:
        found = found - _shifted(values, before)
        if field.wraps is not None:
            found = (found + field.wraps / 2) % field.wraps - field.wraps / 2
    if yaw is not None:
        cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
        x, y = found[:, 0::2], found[:, 1::2]
        found = np.stack([cos * x + sin * y, cos * y - sin * x], 2).reshape(len(found), -1)
    if field.cosine_sine:
        angle = found * (2 * math.pi / (field.wraps or 2 * math.pi))
        found = np.stack([np.cos(angle), np.sin(angle)], 2).reshape(len(found), -1)
    return found


def _shifted(values: Floats, ahead: int) -> Floats:
    """Return row i + ahead at row i, and NaN where there is none."""
    moved = np.full_like(values, np.nan)
    rows = len(values)
    if abs(ahead) < rows:
        moved[max(0, -ahead) : rows - max(0, ahead)] = values[max(0, ahead) : rows + min(0, ahead)]
    return moved
