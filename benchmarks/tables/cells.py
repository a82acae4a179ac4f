"""How a cell is written: numbers, ranges, ratios, and a dash where nothing was measured."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Rows = Sequence[Mapping[str, Any]]
"""The rows of one stored result, in the form that its script writes."""
Lines = list[dict[str, str]]
"""A table's lines; the keys are the columns' heads, and the first cell of a line is its name."""
MISSING = "–"


def counts(counts: Mapping[str, int] | None) -> str:
    """Counts by name, or a dash where nothing was counted."""
    if counts is None:
        return MISSING
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def grouped(rows: Rows, *keys: str) -> list[tuple[tuple[Any, ...], list[Mapping[str, Any]]]]:
    """Rows with the same keys together, in the order of their first."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(groups.items())


def bold_lowest(lines: Lines, column: str, values: Sequence[Any]) -> Lines:
    """The lines, with the cell of the lowest value in bold."""
    line = lines[int(np.argmin(values))]
    line[column] = f"**{line[column]}**"
    return lines


def number(value: float | None, factor: float, form: str) -> str:
    """A number times a factor, or a dash where it was not measured."""
    return MISSING if value is None else f"{factor * value:{form}}"


def error(value: Any) -> str:
    """An error with four decimals, or with five if it is small."""
    return MISSING if value is None else f"{value:.4f}" if value >= 0.001 else f"{value:.5f}"


def significant(value: Any, digits: int) -> str:
    """A number with so many digits that count; exponents without zeros in front."""
    return f"{value:#.{digits}g}".replace(".e", "e").replace("e-0", "e-").rstrip(".")


def span(values: Sequence[float], text: Callable[[float], str]) -> str:
    """The lowest and the highest of several values, or the one that there is."""
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low} to {high}"


def seeds(values: Sequence[float], text: Callable[[float], str]) -> str:
    """The range over seeds; nothing where the result holds only their mean."""
    return span(values, text) if len(values) > 1 else MISSING


def median(values: Sequence[float | None], form: str) -> str:
    """The median of several runs, and their range."""
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    median, low, high = (f"{value:{form}}" for value in (np.median(known), min(known), max(known)))
    return median if low == high else f"{median} ({low} to {high})"


def mean(figures: Sequence[float | None]) -> str:
    """The mean of what was measured, with four decimals."""
    known = [figure for figure in figures if figure is not None]
    return f"{np.mean(known):.4f}" if known else MISSING


def interval(halves: Sequence[float | None]) -> str:
    """The mean of half intervals, with two digits."""
    known = [half for half in halves if half is not None]
    return significant(np.mean(known), 2) if known else MISSING


def ratio(ratio: float | None, interval: Sequence[float] | None) -> str:
    """A ratio and its interval. Of a thing over itself it is 1."""
    if ratio is None or interval is None:
        return MISSING
    if ratio == 1:
        return "1"
    return f"{significant(ratio, 3)} ({' to '.join(significant(end, 3) for end in interval)})"
