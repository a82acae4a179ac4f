"""Does a group that is written by hand do what the fields say of it? Both are used, and so both should agree.

A field says how turns and mirrors of the body act on it. A `Group` holds matrices alone, and does not say which turn or
mirror an element is. So for each element, one is looked for that does to every field what the element does to it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.symmetry import DeclaredSymmetry, Generator, SymmetryGroup
from msr_envs.symmetry.group import turns_about_vertical
from msr_envs.symmetry.matrices import representation_matrices
from msr_runtime.errors import FamilyError
from msr_runtime.representation import Matrices, Parts
from msr_runtime.task import Field, Group, SymmetricFamily, as_matrices, field_slices

_CLOSE = 1e-4


class _Said(NamedTuple):
    """What a field says, beside what the group does to it."""

    name: str
    """The field, with its side."""
    kind: str
    blocks: NDArray[np.float64]
    """What each element of the group does to the field's numbers, `(order, n, n)`."""
    alone: bool
    """Whether every element keeps the field's numbers apart from those of other fields."""
    fits: NDArray[np.bool_]
    """Whether an element does what the field says of a turn or mirror, `(order, turns and mirrors)`."""


def contradiction(family: SymmetricFamily, group: Group) -> str | None:
    """Return in words where a family's `group()` does something else than a field says. None if it does not.

    Args:
        family: The family. Fields that say nothing agree with everything.
        group: Its group, which is one.

    """
    if isinstance(family, DeclaredSymmetry) and type(family).group is DeclaredSymmetry.group:
        return None  # made from the fields
    bodies = _bodies(group.order)
    said = [
        each
        for side, fields, matrices in (("x", family.inputs, group.inputs), ("y", family.outputs, group.outputs))
        for each in _said(side, fields, matrices, bodies)
    ]
    for element in range(1, group.order) if said else ():
        fits = np.stack([each.alone & each.fits[element] for each in said])
        if not fits.all(0).any():
            odd = said[int(np.argmin(fits[:, fits.sum(0).argmax()]))]  # that which most others speak against
            return (
                f"family '{family.name}': {odd.name} says that it is a {odd.kind}, but element {element} of "
                f"{group.name}, by group(), {_does(odd, element)}. Training uses group() and augment, bundles and "
                "check_robot what the fields say; correct one of them, or derive from "
                "msr_envs.symmetry.DeclaredSymmetry, which makes group() and augment from the fields"
            )
    return None


def _bodies(order: int) -> NDArray[np.float64]:
    """All turns and mirrors that an element of a group of this order can be, `(candidates, 3, 3)`."""
    turns = turns_about_vertical(2 * np.pi * np.arange(order) / order)
    if order % 2:
        turns = np.concatenate([turns, turns @ np.diag([-1.0, -1.0, 1.0])])
    mirrored = np.concatenate([turns, turns @ np.diag([1.0, -1.0, 1.0])])
    return np.concatenate([mirrored, mirrored @ np.diag([1.0, 1.0, -1.0])])


def _said(side: str, fields: Sequence[Field], matrices: NDArray, bodies: NDArray) -> list[_Said]:
    found = []
    for field, part in zip(fields, field_slices(fields).values(), strict=True):
        if field.representation is None:
            continue
        whole = as_matrices(matrices)
        rows, blocks = whole[:, part].copy(), whole[:, part, part]
        rows[:, :, part] = 0.0
        fits = _fits(field, blocks, bodies)
        if fits is not None:
            alone = bool(np.abs(rows).max() <= _CLOSE)
            found.append(_Said(f"field '{field.name}' of {side}", field.representation.kind, blocks, alone, fits))
    return found


def _fits(field: Field, blocks: NDArray, bodies: NDArray) -> NDArray[np.bool_] | None:
    """Whether blocks `(order, n, n)` are what the field says of bodies: `(order, bodies)`. None if nobody can tell."""
    given = field.representation
    names = {Parts: "cycles", Matrices: "generators"}.get(type(given))
    known = list(getattr(given, names)) if names else ["turn"]
    if len(known) != 1:
        return None  # it speaks of generators by name, and the group does not say which element is which
    columns = []
    for body in bodies:
        # as if the body made a group of two, in which its square is the identity: only what it does itself is asked for
        pair = np.stack([np.eye(3), body])
        group = SymmetryGroup("pair", (Generator(known[0], body),), pair, ((), (0,)), np.array([[1], [0]]))
        try:
            columns.append(np.abs(blocks - representation_matrices(field, group)[1]).max((1, 2)) <= _CLOSE)
        except FamilyError:  # it cannot act on the field, as a turn by half a sensor
            columns.append(np.zeros(len(blocks), np.bool_))
    return np.stack(columns, 1)


def _does(said: _Said, element: int) -> str:
    block, unit = said.blocks[element], np.eye(said.blocks.shape[-1])
    if not said.alone:
        return "mixes its numbers with those of other fields"
    if np.abs(block - unit).max() <= _CLOSE:
        return "leaves it as it is"
    if np.abs(block + unit).max() <= _CLOSE:
        return "changes its sign"
    moved = ((np.abs(block) <= _CLOSE) | (np.abs(block - 1) <= _CLOSE)).all()
    return "moves its numbers to other places" if moved else "does something else than other fields say"
