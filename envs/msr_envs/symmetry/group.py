"""A symmetry group of a robot's body: a few named generators, each a turn or a mirror, and all that they make.

The body's frame has x ahead, y to the left and z up. Every element of the group is an orthogonal matrix `(3, 3)` on
that frame: a turn has determinant 1, and a mirror -1.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.groups import rotation
from msr_runtime.errors import FamilyError

LIMIT = 64
"""The largest order of a group. All products are checked. A ring of more sensors takes turns of a divisor."""
_TOLERANCE = 1e-6


class Generator(NamedTuple):
    """One of the elements from which a group is made."""

    name: str
    """The generator's name, such as `mirror` or `turn`. Fields name it where the robot's build says what it does."""
    matrix: NDArray[np.float64]
    """`(3, 3)`, orthogonal: what it does to a vector in the body's frame."""

    def __str__(self) -> str:
        angle = yaw_of(self.matrix)
        return self.name if angle is None else f"{self.name} by {np.degrees(angle):.4g}°"


@dataclass(frozen=True, eq=False)
class SymmetryGroup:
    """A finite group of turns and mirrors of the body. The functions of this module make it."""

    name: str
    """The group's usual name, for example `C6`."""
    generators: tuple[Generator, ...]
    """What the group was made from."""
    elements: NDArray[np.float64]
    """`(order, 3, 3)`: each element as a matrix on the body's frame, the identity first."""
    words: tuple[tuple[int, ...], ...]
    """Each element as a product of generators, by their numbers. The identity is the empty product."""
    products: NDArray[np.int64]
    """`(order, generators)`: the number of the element that element i times generator j is."""
    continuous: bool = False
    """Whether every turn about the vertical axis is a symmetry, and the elements are a sample of them."""

    @property
    def order(self) -> int:
        """The number of elements."""
        return len(self.elements)


def mirror(axis: Literal["x", "y", "z"] = "y", name: str = "mirror") -> SymmetryGroup:
    """Return the group of one mirror. It negates an axis: `y` swaps left and right, `x` front and back.

    Args:
        axis: The axis that changes its sign.
        name: The generator's name.

    """
    signs = np.ones(3)
    signs["xyz".index(axis)] = -1.0
    return generate("C2", Generator(name, np.diag(signs)))


def cyclic(order: int) -> SymmetryGroup:
    """Return C_n, the turns about the vertical axis by multiples of 360 degrees / n. Element i is i such turns.

    The generator's name is `turn`.
    """
    return generate(f"C{order}", _turn(order))


def dihedral(order: int) -> SymmetryGroup:
    """Return D_n: the n turns of C_n, then the same turns after a left-right mirror.

    The generators' names are `turn` and `mirror`.
    """
    return generate(f"D{order}", _turn(order), *mirror().generators)


def yaw(samples: int = 8, mirrored: bool = False) -> SymmetryGroup:
    """Return all turns about the vertical axis, SO(2), with a sample of them as elements.

    `augment` draws any angle if every field of the family allows it, and one of the elements if not.

    Args:
        samples: How many evenly spaced turns are the group's elements.
        mirrored: Add the left-right mirror: O(2), sampled by D_n.

    """
    group = dihedral(samples) if mirrored else cyclic(samples)
    return SymmetryGroup(group.name, group.generators, group.elements, group.words, group.products, continuous=True)


def product(*groups: SymmetryGroup) -> SymmetryGroup:
    """Return the direct product of groups whose elements commute, such as a quadruped's two mirrors.

    Raises:
        FamilyError: Two groups do not commute, share elements, or have generators of one name.

    Example:
        >>> from msr_envs.symmetry import mirror, product
        >>> sides = product(mirror("y", "left-right"), mirror("x", "front-back"))
        >>> sides.name, sides.order
        ('C2xC2', 4)

    """
    for one, other in combinations(groups, 2):
        for first in one.generators:
            for second in other.generators:
                if not _close(first.matrix @ second.matrix, second.matrix @ first.matrix):
                    raise FamilyError(
                        f"the product of {one.name} and {other.name}: their generators '{first.name}' and "
                        f"'{second.name}' do not commute, so the two are no direct product; turns with a mirror are "
                        "dihedral(n), and generate(...) makes any other group"
                    )
    whole = generate("x".join(group.name for group in groups), *(each for group in groups for each in group.generators))
    orders = [group.order for group in groups]
    if whole.order != np.prod(orders):
        raise FamilyError(
            f"the product of {' and '.join(group.name for group in groups)} has {whole.order} elements, not "
            f"{' x '.join(map(str, orders))}: the groups share elements; leave one out, or take a larger one"
        )
    return SymmetryGroup(
        whole.name,
        whole.generators,
        whole.elements,
        whole.words,
        whole.products,
        continuous=any(group.continuous for group in groups),
    )


def generate(name: str, *generators: Generator) -> SymmetryGroup:
    """Return the group of all products of the generators.

    The elements are ordered by the powers of the last generator, then of the one before it, and so on.

    Args:
        name: The group's name.
        generators: What it is made from.

    Raises:
        FamilyError: A matrix is not orthogonal, a name stands twice, or the products do not end.

    """
    for generator in generators:
        if np.shape(generator.matrix) != (3, 3) or not _close(generator.matrix @ generator.matrix.T, np.eye(3)):
            raise FamilyError(
                f"group {name}: the matrix of generator '{generator.name}' is {np.asarray(generator.matrix).tolist()}, "
                "but it must be an orthogonal 3 x 3 matrix: a turn or a mirror of the body's x, y and z"
            )
    names = [generator.name for generator in generators]
    if twice := {each for each in names if names.count(each) > 1}:
        raise FamilyError(
            f"group {name}: {names.count(min(twice))} generators are named '{min(twice)}', but each needs a name of "
            "its own: mirror('x', 'front-back') names one"
        )
    found: list[NDArray[np.float64]] = [np.eye(3)]
    words: list[tuple[int, ...]] = [()]

    def add(matrix: NDArray, word: tuple[int, ...]) -> None:
        found.append(matrix)
        words.append(word)
        if len(found) > LIMIT:
            raise FamilyError(
                f"group {name}: its generators {', '.join(map(str, generators))} make more than {LIMIT} elements; take "
                "fewer turns (a ring of 72 sensors also takes cyclic(24)), or correct an angle of which no multiple is "
                "a full turn, or turns about different axes"
            )

    for index, generator in enumerate(generators):
        subgroup = list(zip(found, words, strict=True))
        power, word = generator.matrix, (index,)
        while _find(found, power) is None:
            for matrix, start in subgroup:
                add(matrix @ power, start + word)
            power, word = power @ generator.matrix, (*word, index)
    position = 0
    while position < len(found):  # products that are not yet there
        for index, generator in enumerate(generators):
            after = found[position] @ generator.matrix
            if _find(found, after) is None:
                add(after, (*words[position], index))
        position += 1
    elements = np.stack([_exact(matrix, len(found)) for matrix in found])
    products = [[_find(elements, element @ each.matrix) for each in generators] for element in elements]
    return SymmetryGroup(
        name, generators, elements, tuple(words), np.array(products, np.int64).reshape(len(found), len(generators))
    )


def yaw_of(matrix: NDArray) -> float | None:
    """Return the angle of a turn about the vertical axis, in rad. None if the matrix is something else."""
    upright = np.diag([0.0, 0.0, 1.0])
    upright[:2, :2] = matrix[:2, :2]
    if np.linalg.det(matrix) < 0 or not _close(matrix, upright):
        return None
    return float(np.arctan2(matrix[1, 0], matrix[0, 0]))


def turns_about_vertical(angle: NDArray) -> NDArray[np.float64]:
    """Return `(..., 3, 3)`: turns of the body by `angle` `(...)` about the vertical axis, rad, counter-clockwise."""
    matrices = np.zeros((*np.shape(angle), 3, 3))
    cos, sin = np.cos(angle), np.sin(angle)
    matrices[..., 0, 0], matrices[..., 0, 1] = cos, -sin
    matrices[..., 1, 0], matrices[..., 1, 1] = sin, cos
    matrices[..., 2, 2] = 1.0
    return matrices


def _turn(order: int) -> Generator:
    if order < 1:
        raise FamilyError(f"a group of turns has the order {order}, but it must be 1 or more")
    return Generator("turn", turns_about_vertical(np.array(2 * np.pi / order)))


def _exact(matrix: NDArray, order: int) -> NDArray[np.float64]:
    """Return an element without the rounding of its many products: its angle is a multiple of 360 degrees / order."""
    flipped = np.linalg.det(matrix) < 0
    turned = matrix @ np.diag([1.0, -1.0, 1.0]) if flipped else matrix
    angle = yaw_of(turned)
    if angle is None:
        return matrix
    exact = np.eye(3)
    exact[:2, :2] = rotation(order)[round(angle / (2 * np.pi) * order) % order]
    if flipped:
        exact[:, 1] *= -1.0
    return exact if _close(exact, matrix) else matrix  # a mirror alone may have any direction


def _find(matrices: list[NDArray] | NDArray, matrix: NDArray) -> int | None:
    near = np.abs(np.asarray(matrices) - matrix).max((1, 2)) <= _TOLERANCE
    return int(near.argmax()) if near.any() else None


def _close(a: NDArray, b: NDArray) -> bool:
    return bool(np.abs(a - b).max() <= _TOLERANCE)
