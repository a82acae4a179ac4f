"""What repeats in a support set: copies of one x, a y that is stuck, and a robot that rests.

Copies teach no more than one sample. A y that does not change while x does comes from a stuck sensor, or from a robot
that does not act. Both fit well, so no limit of the fit sees them.
"""

import numpy as np
from numpy.typing import NDArray

from msr_runtime.bundle.spread import spread
from msr_runtime.task import Field, field_slices

_STATES = 5
"""A y that is the same at fewer different x may be chance."""
_STILL = 0.01
"""Spread of x (see `spread`) below which the robot rests: a tenth of a scale on average, which may be noise. Support
sets of a moving robot have 0.2 or more."""
_SHOWN = 6
"""Most numbers of one field that a message shows."""


def distinct(x: NDArray, enough: int) -> int:
    """Return how many samples of x `(samples, *x)` are different, or `enough` if there are so many or more."""
    # Adaptations wait for this. Nearly always the last number, or the first, differs in all of the first samples.
    flat = x.reshape(len(x), -1)
    for column in (-1, 0):
        if len(set(flat[:enough, column].tolist())) >= enough:
            return enough
    # Bytes are compared several times as fast as rows. Adding 0 makes -0.0 to 0.0, which is the same number.
    raw = (flat + flat.dtype.type(0)).tobytes()
    size = len(raw) // len(x)
    return min(enough, len({raw[at : at + size] for at in range(0, len(raw), size)}))


def stuck(fields: tuple[Field, ...], scale: NDArray, x: NDArray, y: NDArray) -> tuple[bool, str] | None:
    """Find the numbers of y that are the same in all samples although x differs.

    Args:
        fields: The fields of y. Empty for labels, which may well be the same.
        scale: The scale of x, `Normalization.input_scale`, as an array.
        x: `(samples, *x)` in raw units.
        y: `(samples, *y)` in raw units.

    Returns:
        Whether it is the whole of y, and a sentence that names the fields and their values. None if every number of y
        differs, if fewer than five x differ, or if the robot rests.
    """
    # Adaptations wait for this. Where the first and the last sample differ in each number, nothing is stuck.
    if not fields or len(x) < _STATES or not np.count_nonzero(y[0] == y[-1]):
        return None
    same = (y == y[0]).all(0).reshape(-1)
    if not same.any() or distinct(x, _STATES) < _STATES or alike(scale, x):
        return None
    values, named = y[0].reshape(-1), []
    for field in fields:
        where = field_slices(fields)[field.name]
        if (at := np.flatnonzero(same[where])).size:
            numbers = ", ".join(f"{value:.6g}" for value in values[where][at[:_SHOWN]].tolist())
            numbers += ", ..." if len(at) > _SHOWN else ""
            part = "" if len(at) == field.size else f" element {', '.join(map(str, at[:_SHOWN].tolist()))}"
            named.append(f"field '{field.name}'{part} is {numbers} {field.unit}")
    return bool(same.all()), f"{' and '.join(named)} in all {len(x)} support samples, although their x differ"


def at_rest(scale: NDArray, x: NDArray, y: NDArray) -> bool:
    """Return whether samples show a robot that rests: y is the same in all of them, and x hardly differs.

    Args:
        scale: As in `stuck`.
        x: `(samples, *x)` in raw units.
        y: `(samples, *y)` in raw units, not labels.
    """
    return len(x) >= _STATES and bool((y == y[0]).all()) and alike(scale, x)


def alike(scale: NDArray, x: NDArray) -> bool:
    """Return whether x `(samples, *x)` hardly differs, as where the robot rests. `scale` is as in `stuck`."""
    return spread(scale, x) < _STILL
