"""The fields of a family, from its description and from what the data holds."""

import math
from collections.abc import Sequence

import numpy as np

from msr_envs.logs.description import LogDescription, LogField
from msr_envs.logs.samples import Moment
from msr_runtime.errors import FamilyError
from msr_runtime.representation import Parts, Ring, Scalar
from msr_runtime.task import Array, Field


def make_fields(
    said: LogDescription, sides: Sequence[Moment], elements: Sequence[Sequence[str]], values: Sequence[Array]
) -> tuple[Field, ...]:
    """Return the fields of x or of y.

    Args:
        said: The description.
        sides: The fields of the side.
        elements: The names of the numbers of each field of the description, x and then y.
        values: The samples of each drive, `(samples, numbers)`.

    Raises:
        FamilyError: The description does not fit the data, such as names for another number of columns.

    """
    lows, highs = np.min([value.min(0) for value in values], 0), np.max([value.max(0) for value in values], 0)
    fields, start = [], 0
    for moment in sides:
        field, names = moment.field, tuple(elements[moment.source])
        shape = _shape(field, len(names))
        part = slice(start, start + math.prod(shape))
        low, high = _bounds(said, field, float(lows[part].min()), float(highs[part].max()))
        start = part.stop
        try:
            fields.append(
                Field(
                    name=moment.name,
                    shape=shape,
                    unit=field.unit,
                    low=low,
                    high=high,
                    kind=field.kind,
                    wraps=None if field.difference or field.cosine_sine else field.wraps,
                    names=tuple(field.names) or _names(field, names),
                    representation=field.representation,
                )
            )
        except ValueError as error:
            raise FamilyError(f"family '{said.name}': {_message(error)}") from error
    return tuple(fields)


def _shape(field: LogField, numbers: int) -> tuple[int, ...]:
    if field.cosine_sine:
        return (numbers, 2) if numbers > 1 else (2,)
    if field.body_frame and numbers > 2:
        return (numbers // 2, 2)
    return (numbers,)


def _names(field: LogField, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the elements: those of the columns, if there are several and they differ."""
    if field.cosine_sine:
        names = tuple(f"{part} {name}" for name in names for part in ("cos", "sin"))
    return names if len(names) > 1 and len(set(names)) == len(names) else ()


def _bounds(said: LogDescription, field: LogField, low: float, high: float) -> tuple[float, float]:
    """Return the bounds of a field: as described, or the extremes of the data and of their mirror images."""
    if field.cosine_sine:
        low, high = -1.0, 1.0
    elif said.symmetry and not _keeps_signs(field):
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    if field.wraps and not field.difference and high - low < field.wraps:
        low, high = (low + high - field.wraps) / 2, (low + high + field.wraps) / 2
    if low == high:  # a field that never changes still needs bounds that differ
        low, high = low - max(1.0, abs(low)), high + max(1.0, abs(high))
    return low if field.low is None else field.low, high if field.high is None else field.high


def _keeps_signs(field: LogField) -> bool:
    """Return whether the group changes no sign, so that the data's own extremes bound its images too."""
    kind = field.representation
    if isinstance(kind, Parts) and any(kind.flips.values()):
        return False
    return isinstance(kind.of if isinstance(kind, Parts | Ring) else kind, Scalar)


def _message(error: ValueError) -> str:
    text = str(error)
    return text.split("Value error, ")[-1].split(" [type=")[0] if "Value error, " in text else text
