"""Say in words what the elements of a group do, field by field."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from msr_runtime.meta.symmetry.equivariant import multiplication_table
from msr_runtime.task import Field, Group, as_matrices, field_slices

_ZERO = 1e-6
"""Smaller entries of a matrix count as zero."""


def in_words(group: Group, inputs: Sequence[Field], outputs: Sequence[Field]) -> tuple[str, ...]:
    """Say what the generators of a group do: elements of which all others are products.

    Args:
        group: The group on the vectors of x and y, its matrices exact to 1e-9.
        inputs: The fields of x.
        outputs: The fields of y.

    Returns:
        A line for each generator. Fields that it leaves as they are are not named.

    Example:
        >>> from msr_envs import load_family
        >>> from msr_runtime.meta.symmetry import in_words
        >>> family = load_family("hex-drive")
        >>> print(*in_words(family.group(), family.inputs, family.outputs), sep="; ")
        velocity turned by 60°, commands shifted by 1; of the outputs: velocity_change turned by 60°

    """
    whole = Group(group.name, as_matrices(group.inputs), group.outputs)
    lines = []
    for element in _generators(multiplication_table(whole)):
        on_x, on_y = _fields(whole.inputs[element], inputs), _fields(whole.outputs[element], outputs)
        lines.append(
            "; ".join([", ".join(on_x) or "x as it is", *([f"of the outputs: {', '.join(on_y)}"] if on_y else [])])
        )
    return tuple(lines)


def _generators(table: NDArray[np.intp]) -> list[int]:
    """A few elements of which all others are products: each of them is the first that is not yet reached."""
    chosen: list[int] = []
    reached = {0}
    while len(reached) < len(table):
        chosen.append(min(set(range(len(table))) - reached))
        new = reached
        while new:
            new = {int(table[one, other]) for one in new for other in chosen} - reached
            reached = reached | new
    return chosen


def _fields(matrix: NDArray, fields: Sequence[Field]) -> list[str]:
    """What a matrix does to each field that it changes."""
    parts = field_slices(fields)
    said = []
    for name, part in parts.items():
        goes = [other for other, rows in parts.items() if np.abs(matrix[rows, part]).max() > _ZERO]
        if goes != [name]:
            said.append(f"{name} moved to {' and '.join(goes)}")
        elif words := _block(matrix[part, part]):
            said.append(f"{name} {words}")
    return said


def _block(matrix: NDArray) -> str:
    """What a matrix does to the vector of one field. Empty if nothing."""
    n = len(matrix)

    def is_near(other: NDArray) -> bool:
        return bool(np.abs(matrix - other).max() < _ZERO)

    if is_near(np.eye(n)):
        return ""
    if n == 2 and np.linalg.det(matrix) > 0:
        return f"turned by {np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])):.4g}°"
    if n == 3 and np.linalg.det(matrix) > 0 and not is_near(np.round(np.abs(matrix))):
        return f"turned by {np.degrees(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1))):.4g}°"
    signs = np.sign(np.diag(matrix))
    if is_near(np.diag(signs)):
        negative = ", ".join(map(str, np.flatnonzero(signs < 0)))
        return "negated" if (signs < 0).all() else f"negated in {negative}"
    if np.abs(np.abs(matrix).max(0) - 1).max() > _ZERO:
        return "mirrored" if n == 2 else "turned"
    shift = int(matrix[:, 0].argmax())
    if is_near(np.roll(np.eye(n), shift, 0)) and n > 2:
        return f"shifted by {shift}"
    return "permuted and negated" if (matrix < -_ZERO).any() else "permuted"
