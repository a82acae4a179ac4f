"""The group of a family, from what its fields say: `group()` and `augment()` without a matrix written by hand."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msr_envs.groups import direct_sum, random_action
from msr_envs.symmetry.group import SymmetryGroup, turns_about_vertical
from msr_envs.symmetry.matrices import any_turn, representation_matrices, spatial_matrices
from msr_envs.symmetry.words import describe_symmetry
from msr_runtime.errors import FamilyError
from msr_runtime.representation import Pseudovector, Vector
from msr_runtime.task import Field, Group, Loss, field_slices, sample_shape


def declared_group(family: str, symmetry: SymmetryGroup, inputs: Sequence[Field], outputs: Sequence[Field]) -> Group:
    """Return the matrices of a declared group on the input vector and on the output vector.

    Args:
        family: The family's name, for messages.
        symmetry: The group.
        inputs: The fields of x. Each has a `representation`.
        outputs: The fields of y, likewise.

    Raises:
        FamilyError: A field does not say how the group acts on it, or what it says does not fit the group.

    Example:
        >>> from msr_envs.symmetry import Pseudoscalar, Vector, declared_group, mirror
        >>> from msr_runtime.task import Field
        >>> push = Field(name="push", shape=(2,), unit="N", low=-1, high=1, representation=Vector())
        >>> turning = Field(name="yaw_rate", shape=(1,), unit="rad/s", low=-1, high=1, representation=Pseudoscalar())
        >>> group = declared_group("boat", mirror(), [push], [turning])
        >>> group.inputs[1].tolist(), group.outputs[1].tolist()
        ([[1.0, 0.0], [0.0, -1.0]], [[-1.0]])

    """
    try:
        sides = [
            direct_sum(*(representation_matrices(field, symmetry) for field in fields)) for fields in (inputs, outputs)
        ]
    except FamilyError as error:
        raise FamilyError(f"family '{family}': {error}") from None
    return Group(symmetry.name, *sides)


class DeclaredSymmetry:
    """A base of families whose fields say how the group acts on them. Put it first among the bases.

    A family gives `symmetry`, the group of the body, and a `representation` with each field. It gets `group()` and
    `augment()` from them, and a description in words.

    Example:
        >>> from msr_envs.symmetry import DeclaredSymmetry, Pseudoscalar, Vector, mirror
        >>> from msr_runtime.task import Field
        >>> class Boat(DeclaredSymmetry):
        ...     name, loss, query_sets = "boat", "mse", ("all",)
        ...     inputs = (Field(name="push", shape=(2,), unit="N", low=-1, high=1, representation=Vector()),)
        ...     outputs = (
        ...         Field(name="yaw_rate", shape=(1,), unit="rad/s", low=-1, high=1, representation=Pseudoscalar()),
        ...     )
        ...     symmetry = mirror()
        ...
        ...     def sample(self, rng, tasks, shots, queries, split): ...
        >>> print(*Boat().symmetry_in_words())
        mirror: push y → −y; of the outputs: yaw_rate → −yaw_rate

    """

    name: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    loss: Loss
    symmetry: SymmetryGroup
    """The group of the body."""

    def __init_subclass__(cls) -> None:
        """Refuse bases in an order in which another `augment` or `group` hides this class's."""
        super().__init_subclass__()
        for member in ("augment", "group"):
            owner = next(base for base in cls.__mro__ if member in vars(base))
            if not issubclass(owner, DeclaredSymmetry):
                raise FamilyError(
                    f"class {cls.__name__}: {member} of {owner.__name__} hides that of DeclaredSymmetry, so the "
                    f"declared group would not be used: write DeclaredSymmetry before {owner.__name__} among the bases"
                )

    def group(self) -> Group:
        """Return the group that acts on the input vector and on the output vector.

        Raises:
            FamilyError: A field does not say how the group acts on it, or what it says does not fit the group.
        """
        return self._group

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Move each sample, x `(..., *x)` and its y `(..., *y)` together, by a random group element of its own.

        If every turn about the vertical axis is a symmetry and every field allows it, the element is turned further by
        a random angle. Labels y `(...)` go to the classes that their element takes them to.
        """
        group = self.group()
        lead = x.shape[: x.ndim - len(sample_shape(self.inputs))]
        flat_x = x.reshape(*lead, -1)
        if self.loss == "cross_entropy":
            element = rng.integers(group.order, size=lead)
            return _act(group.inputs[element], flat_x).reshape(x.shape), self._classes[element, y].astype(y.dtype)
        flat_y = y.reshape(*lead, -1)
        if self.turns_freely:
            element = rng.integers(group.order, size=lead)
            turns = turns_about_vertical(rng.uniform(-np.pi, np.pi, lead)) @ self.symmetry.elements[element]
            moved = _turned(self.inputs, turns, flat_x), _turned(self.outputs, turns, flat_y)
        else:
            moved = random_action(group, rng, flat_x, flat_y)
        return moved[0].reshape(x.shape), moved[1].reshape(y.shape)

    def symmetry_in_words(self) -> tuple[str, ...]:
        """Return a line for each generator of the group: what it does to each field."""
        self.group()  # refuses what does not fit
        return describe_symmetry(self.symmetry, self.inputs, self.outputs, self.turns_freely)

    @property
    def turns_freely(self) -> bool:
        """Whether `augment` turns by any angle. `group()` then holds a sample of the turns."""
        return (
            self.symmetry.continuous
            and self.loss != "cross_entropy"
            and all(any_turn(field) is not None for field in (*self.inputs, *self.outputs))
        )

    @cached_property
    def _group(self) -> Group:
        symmetry: Any = getattr(self, "symmetry", None)
        if not isinstance(symmetry, SymmetryGroup):
            raise FamilyError(
                f"family '{self.name}': symmetry is {symmetry!r}, but a group is wanted, such as mirror() or "
                "cyclic(6); set `symmetry`. If the robot has none, leave out DeclaredSymmetry and let `augment` return "
                "x and y as they are"
            )
        return declared_group(self.name, self.symmetry, self.inputs, self.outputs)

    @cached_property
    def _classes(self) -> NDArray[np.int64]:
        """`(order, classes)`: the class that each element takes each class to."""
        outputs = self.group().outputs
        if not ((outputs == 0) | (outputs == 1)).all():
            raise FamilyError(
                f"family '{self.name}': group {self.symmetry.name} gives classes a sign or mixes them, but labels can "
                "only change places; represent the classes as Scalar(), Ring() or Parts(...) without flips"
            )
        return outputs.argmax(1)


def _act(matrices: NDArray, values: NDArray) -> NDArray:
    return np.einsum("...ij,...j->...i", matrices.astype(values.dtype), values)


def _turned(fields: Sequence[Field], turns: NDArray, values: NDArray) -> NDArray:
    """Act by turns `(..., 3, 3)` on vectors `(..., n)` whose fields allow any turn: one small block a field."""
    moved = np.empty_like(values)
    for field in fields:
        if (kind := any_turn(field)) is not None:
            part = field_slices(fields)[field.name]
            size = len(kind.frame(field.shape)) if isinstance(kind, Vector | Pseudovector) else 1
            block = spatial_matrices(kind, (size,), turns).astype(values.dtype)
            vectors = values[..., part].reshape(*values.shape[:-1], -1, size)
            moved[..., part] = np.einsum("...ij,...kj->...ki", block, vectors).reshape(*values.shape[:-1], -1)
    return moved
