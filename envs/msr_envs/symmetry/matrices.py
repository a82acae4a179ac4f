"""Matrices of a declared group on a field, from the field's representation."""

import math
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from msr_envs.groups import Representation as Block
from msr_envs.symmetry.group import Generator, SymmetryGroup
from msr_runtime.errors import FamilyError
from msr_runtime.representation import (
    Angle,
    Inner,
    Matrices,
    Parts,
    Pseudoscalar,
    Pseudovector,
    Ring,
    Scalar,
    Shape,
    Vector,
)
from msr_runtime.task import Field

_TOLERANCE = 1e-6


def representation_matrices(field: Field, group: SymmetryGroup) -> Block:
    """Return what each element of the group does to the flattened field, `(order, n, n)`.

    Raises:
        FamilyError: The field does not say how the group acts on it, or what it says does not fit the group. The
            message names the field.

    """
    given = field.representation
    try:
        if given is None:
            raise FamilyError(f"it does not say how the group acts on it; {_suggestion(field)}")
        if isinstance(given, Parts | Matrices):
            return _by_words(given, field, group)
        if isinstance(given, Ring):
            named = [(each.matrix, str(each)) for each in group.generators]  # first, as a message names them
            named += [(element, "an element") for element in group.elements]
            places = [ring_places(given, field.shape[0], *each) for each in named]
            where = np.stack(places[len(group.generators) :])
            return _blocks(where, spatial_matrices(given.of, field.shape[1:], group.elements))
        if isinstance(given, Angle):
            return _angle_matrices(field.size, group)
        matrices = spatial_matrices(given, field.shape, group.elements)
        if not np.abs(matrices @ matrices.mT - np.eye(field.size)).max() <= _TOLERANCE:
            raise FamilyError(
                f"an element of the group mixes its axes ({given.describe()}) with others; the likely cause is an axis "
                "that is missing: a turn about the vertical axis needs both x and y"
            )
        return matrices
    except FamilyError as error:
        raise FamilyError(f"field '{field.name}', group {group.name}: {error}") from None


def any_turn(field: Field) -> Inner | None:
    """Return the field's representation if a turn by any angle acts on it, by `spatial_matrices`. None if not."""
    given = field.representation
    return given if isinstance(given, Scalar | Pseudoscalar | Vector | Pseudovector) else None


def spatial_matrices(kind: Inner, shape: Shape, elements: NDArray) -> NDArray[np.float64]:
    """Return what turns and mirrors `(..., 3, 3)` of the body do to numbers of one kind: `(..., n, n)`.

    Args:
        kind: What the numbers are.
        shape: Their shape in the field; n is its product.
        elements: Any orthogonal matrices on the body's frame.

    """
    size = math.prod(shape)
    if isinstance(kind, Scalar):
        return np.broadcast_to(np.eye(size), (*elements.shape[:-2], size, size)).copy()
    handedness = np.where(np.linalg.det(elements) < 0, -1.0, 1.0)[..., None, None]
    if isinstance(kind, Pseudoscalar):
        return handedness * np.eye(size)
    axes, signs = map(np.array, zip(*kind.frame(shape), strict=True))
    # picked by index: a product with zeros would change the sign of a zero
    block = elements[..., axes[:, None], axes] * (signs[:, None] * signs)
    if isinstance(kind, Pseudovector):
        block = handedness * block
    elif not isinstance(kind, Vector):
        assert_never(kind)
    width = len(axes)
    matrices = np.zeros((*elements.shape[:-2], size, size))
    for start in range(0, size, width):
        matrices[..., start : start + width, start : start + width] = block
    return matrices


def ring_places(ring: Ring, count: int, element: NDArray, name: str) -> NDArray[np.int64]:
    """Return where the sensors of a ring go, `(count,)`: sensor i takes the place of sensor `[i]`.

    Args:
        ring: How the sensors stand.
        count: How many there are.
        element: A turn or a mirror, `(3, 3)`.
        name: Its name, for the message.

    Raises:
        FamilyError: A sensor would come to a place where no sensor stands.

    """
    offset = 0.5 if ring.first == "half" else 0.0
    angle = 2 * np.pi * (np.arange(count) + offset) / count
    directions = np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], -1) @ element.T
    places = np.arctan2(directions[:, 1], directions[:, 0]) / (2 * np.pi) * count - offset
    if np.abs(directions[:, 2]).max() > _TOLERANCE or np.abs(places - places.round()).max() > _TOLERANCE * count:
        raise FamilyError(
            f"'{name}' takes sensors of this ring of {count} to places where no sensor stands; the order of the turns "
            f"must divide the number of sensors: take turns of which {count} is a multiple, or correct the field's "
            "shape, or say where the first sensor stands, Ring(first='half')"
        )
    return places.round().astype(np.int64) % count


def _blocks(where: NDArray[np.int64], inner: NDArray) -> NDArray[np.float64]:
    """Move block p to block `where[g, p]`, `(order, parts)`, each changed by `inner` `(order, m, m)`."""
    order, count = where.shape
    width = inner.shape[-1]
    moves = np.zeros((order, count, count))
    for element in range(order):
        moves[element, where[element], np.arange(count)] = 1.0
    return np.einsum("gab,gij->gaibj", moves, inner).reshape(order, count * width, count * width)


def _by_words(given: Parts | Matrices, field: Field, group: SymmetryGroup) -> Block:
    known = given.cycles if isinstance(given, Parts) else given.generators
    names = [generator.name for generator in group.generators]
    member = "cycles" if isinstance(given, Parts) else "generators"
    if missing := [name for name in names if name not in known]:
        raise FamilyError(
            f"it does not say what the generator '{missing[0]}' does; {member} names {', '.join(known) or 'none'}: add "
            f"'{missing[0]}'" + (" with the parts that change places, or () if none does" if member == "cycles" else "")
        )
    if unknown := [name for name in known if name not in names]:
        raise FamilyError(
            f"{member} names the generator '{unknown[0]}', but the group's generators are {', '.join(names)}: correct "
            "the name or leave it out"
        )
    by_generator = [_of_generator(given, field, generator) for generator in group.generators]
    matrices = np.stack([np.eye(field.size)] * group.order)
    for element, word in enumerate(group.words):
        for index in word:
            matrices[element] = matrices[element] @ by_generator[index]
    for element in range(group.order):
        for index, generator in enumerate(group.generators):
            product = matrices[element] @ by_generator[index]
            if np.abs(product - matrices[group.products[element, index]]).max() > _TOLERANCE:
                raise FamilyError(
                    f"what it says of {', '.join(names)} does not make this group: {_relation(group, element, index)} "
                    f"does not, on the field, give what it gives on the body; the likely cause is a cycle of another "
                    f"length than the generator '{generator.name}' has, or signs that do not return"
                )
    return matrices


def _of_generator(given: Parts | Matrices, field: Field, generator: Generator) -> NDArray[np.float64]:
    if isinstance(given, Matrices):
        return np.array(given.generators[generator.name])
    one = given.one(field.shape)
    count = field.size // math.prod(one)
    moves = given.moves(generator.name, field.shape, field.names)
    where = np.array([[moves.get(part, part) for part in range(count)]])
    matrix = _blocks(where, spatial_matrices(given.of, one, generator.matrix[None]))[0]
    flipped = sorted(given.flipped(generator.name, field.shape, field.names))
    matrix[:, flipped] *= -1.0
    return matrix


def _relation(group: SymmetryGroup, element: int, index: int) -> str:
    return " times ".join(f"'{group.generators[i].name}'" for i in (*group.words[element], index))


def _angle_matrices(size: int, group: SymmetryGroup) -> Block:
    for generator in group.generators:
        plane = generator.matrix[:2, :2]
        if not (np.abs(np.abs(plane) - np.eye(2)).max() <= _TOLERANCE and plane[0, 0] > 0):
            raise FamilyError(
                f"'{generator}' shifts an angle by a constant, which no matrix does; give its cosine and its sine as a "
                "Vector(), or, if it is the difference of two angles, say Pseudoscalar()"
            )
    return np.sign(group.elements[:, 1, 1])[:, None, None] * np.eye(size)


def _suggestion(field: Field) -> str:
    if field.wraps is not None:
        return "write representation=Angle(), or give its cosine and its sine as a Vector()"
    width = field.shape[-1] if field.shape else 1
    if field.size == 1:
        return "write representation=Scalar() if no element changes it, or Pseudoscalar() if a mirror negates it"
    likely = "Vector() for a vector in the body's frame, " if width in (2, 3) else ""
    return (
        f"write representation={likely}Ring() for sensors around the body, Parts(...) for parts that change places, or "
        "Scalar() for numbers that no element changes"
    )
