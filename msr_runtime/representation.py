"""How a symmetry group acts on a field: what a turn or a mirror of the whole robot does to the field's numbers.

Each class here is one kind of representation. A field holds one of them as data: it is written into manifests and
compared by `check_robot`. `msr_envs.symmetry` makes matrices from it.

The body's frame has x ahead, y to the left and z up. A group is made from a few generators, such as a mirror or a turn,
and each has a name. A generator's name is needed where the robot's build decides what it does (`Parts`, `Matrices`).

Example:
    >>> from msr_runtime.representation import Parts, Pseudoscalar, Vector
    >>> from msr_runtime.task import Field
    >>> velocity = Field(name="velocity", shape=(2,), unit="m/s", low=-1, high=1, representation=Vector())
    >>> yaw_rate = Field(name="yaw_rate", shape=(1,), unit="rad/s", low=-2, high=2, representation=Pseudoscalar())
    >>> wheels = Field(
    ...     name="wheels", shape=(2,), unit="rad/s", low=-9, high=9, names=("left", "right"),
    ...     representation=Parts(cycles={"mirror": [("left", "right")]}),
    ... )
    >>> wheels == Field.model_validate_json(wheels.model_dump_json())
    True
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, field_validator

Shape = tuple[int, ...]
Part = int | str
"""A part or an element of a field, by its number, from 0, or by its name."""
_ORTHOGONAL = 1e-6


def _tuples(value: Any) -> Any:
    """Lists and tuples mean the same: make them equal."""
    if isinstance(value, Mapping):
        return {name: _tuples(each) for name, each in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


class _Kind(BaseModel):
    # Each class is built at its first use: a field's own build covers all kinds.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # fields are hashed, and a dict is not

    def require_fit(self, shape: Shape, names: Sequence[str]) -> None:
        """Raise ValueError if a field of this shape, whose elements have these names, cannot be represented so."""

    def describe(self) -> str:
        """Return the kind as text, with its axes or its first sensor where these are said."""
        said = [value for name, value in self if isinstance(value, str) and name != "kind"]
        return " ".join([getattr(self, "kind", ""), *said])


class Scalar(_Kind):
    """Numbers that no element changes: a battery's charge, a mass, a distance, a speed without a direction."""

    kind: Literal["scalar"] = "scalar"


class Pseudoscalar(_Kind):
    """Numbers that a turn leaves alone and a mirror negates: a yaw rate, a lateral offset, a steering angle."""

    kind: Literal["pseudoscalar"] = "pseudoscalar"


class _Axes(_Kind):
    axes: str | None = None
    """The axes in the order in which the robot has them, such as `xyz`, `yx` or `z`. A minus says that an axis points
    the other way: `x-y-z` is ahead, right, down. None means x, y or x, y, z, by the length of the field's last axis. A
    field may hold several vectors, one after another."""

    @field_validator("axes")
    @classmethod
    def _known(cls, axes: str | None) -> str | None:
        if axes is not None and (
            not re.fullmatch(r"(-?[xyz]){1,3}", axes) or len(set(axes) - {"-"}) < len(axes.replace("-", ""))
        ):
            raise ValueError(
                f"axes is '{axes}', but it must name one to three different axes, as in 'xy', 'xyz', 'yx' or 'x-y-z'"
            )
        return axes

    def require_fit(self, shape: Shape, names: Sequence[str]) -> None:  # noqa: ARG002
        """Raise ValueError unless the shape holds whole vectors with known axes."""
        if self.axes is None and shape[-1:] not in ((2,), (3,)):
            raise ValueError(
                f"its shape {shape} ends neither in 2 numbers (x, y) nor in 3 (x, y, z), so it is not clear which axes "
                f"it has: name them, as in {type(self).__name__}(axes='xy')"
            )
        if math.prod(shape) % (count := len(self.frame(shape))):
            raise ValueError(
                f"its {math.prod(shape)} numbers are not whole vectors with the {count} axes '{self.axes}': correct "
                "the axes or the shape"
            )

    def frame(self, shape: Shape) -> list[tuple[int, float]]:
        """Return the axes of one vector in a field of this shape: the number of each (x is 0), and its sign."""
        axes = self.axes or "xyz"[: shape[-1]]
        return [("xyz".index(axis[-1]), -1.0 if axis[0] == "-" else 1.0) for axis in re.findall("-?[xyz]", axes)]


class Vector(_Axes):
    """Vectors in the body's frame, in the plane or in space: a velocity, a force, the way to a goal, gravity."""

    kind: Literal["vector"] = "vector"


class Pseudovector(_Axes):
    """Vectors that a mirror negates beside mirroring them: an angular velocity, a torque, a magnetic field."""

    kind: Literal["pseudovector"] = "pseudovector"


class Angle(_Kind):
    """Angles from straight ahead, counter-clockwise. A left-right mirror negates them.

    A turn would shift them, which no matrix does. So they fit groups without turns only: elsewhere, give the cosine and
    the sine as a `Vector`. A difference of two angles, such as a heading error, is a `Pseudoscalar`.
    """

    kind: Literal["angle"] = "angle"


Inner = Annotated[Scalar | Pseudoscalar | Vector | Pseudovector, Discriminator("kind")]
"""What the numbers of one sensor or part are."""


class Ring(_Kind):
    """Sensors or actuators that are set evenly around the body, numbered counter-clockwise.

    The field's first axis counts them. A turn shifts them, and a mirror reverses them.
    """

    kind: Literal["ring"] = "ring"
    first: Literal["ahead", "half"] = "ahead"
    """Where the first one stands: straight ahead, or half a step further to the left."""
    of: Inner = Scalar()
    """What the numbers of each one are. A thruster that pushes along the edge is a `Pseudoscalar`."""

    def require_fit(self, shape: Shape, names: Sequence[str]) -> None:  # noqa: ARG002
        """Raise ValueError unless the shape has an axis that counts the sensors."""
        if not shape:
            raise ValueError("it has the shape (), but the first axis of a ring counts its sensors")
        self.of.require_fit(shape[1:], ())


class Parts(_Kind):
    """Parts of the robot that change places: wheels, legs, arms, rotors, joints.

    Each generator of the group needs an entry in `cycles`, empty if it moves nothing.

    Example:
        The joints of a quadruped, three per leg. The sideways joints flip in a left-right mirror:

        >>> from msr_runtime.representation import Parts
        >>> joints = Parts(
        ...     parts=("LF", "RF", "LH", "RH"),
        ...     cycles={"left-right": [("LF", "RF"), ("LH", "RH")], "front-back": [("LF", "LH"), ("RF", "RH")]},
        ...     flips={"left-right": (0, 3, 6, 9)},
        ... )
    """

    kind: Literal["parts"] = "parts"
    cycles: Annotated[Mapping[str, Sequence[Sequence[Part]]], AfterValidator(_tuples)]
    """By generator: the parts that change places, in cycles. `("left", "right")` swaps two. In `("a", "b", "c")` a goes
    where b was, b where c was, and c where a was. Parts in no cycle stay."""
    flips: Annotated[Mapping[str, Sequence[Part]], AfterValidator(_tuples)] = {}
    """By generator: the single numbers whose sign changes as they move, such as joints whose axis flips. By the name or
    the number of the element that they come from."""
    parts: tuple[str, ...] = ()
    """Names of the parts, in order. Each takes the same count of consecutive numbers. Without them, the field's first
    axis counts the parts, and the field's `names` name them."""
    of: Inner = Scalar()
    """What the numbers of each part are. The positions of feet are a `Vector`."""

    def require_fit(self, shape: Shape, names: Sequence[str]) -> None:
        """Raise ValueError unless the parts share the numbers evenly, are known, and change places."""
        if len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts are {', '.join(self.parts)}, but each needs a name of its own")
        self.of.require_fit(self.one(shape), ())
        for generator in self.cycles:
            self.moves(generator, shape, names)
        for generator in self.flips:
            if generator not in self.cycles:
                raise ValueError(f"flips names the generator '{generator}', but cycles does not: give it its cycles")
            self.flipped(generator, shape, names)

    def one(self, shape: Shape) -> Shape:
        """Return the shape of one part in a field of this shape."""
        if not self.parts:
            if not shape:
                raise ValueError("it has the shape (), but its first axis counts the parts: name them (parts)")
            return shape[1:]
        if math.prod(shape) % len(self.parts):
            raise ValueError(
                f"its {math.prod(shape)} numbers cannot be shared evenly by the {len(self.parts)} parts "
                f"{', '.join(self.parts)}: correct parts or the shape"
            )
        return (math.prod(shape) // len(self.parts),)

    def part_names(self, shape: Shape, names: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the parts in a field of this shape; empty if nobody named them."""
        return self.parts or (tuple(names) if len(names) == self._count(shape) else ())

    def moves(self, generator: str, shape: Shape, names: Sequence[str]) -> dict[int, int]:
        """Return where parts go, for those in a cycle: the number of a part, and of the part whose place it takes.

        Raises:
            ValueError: A part is unknown or stands in the cycles twice.
        """
        known, count, moves = self.part_names(shape, names), self._count(shape), {}
        for cycle in self.cycles[generator]:
            members = [_found(part, known, count, "part", f"cycles of '{generator}'") for part in cycle]
            for part, named, target in zip(members, cycle, [*members[1:], *members[:1]], strict=True):
                if part in moves:
                    raise ValueError(
                        f"cycles of '{generator}' hold part '{named}' twice, so they are no permutation: a part goes "
                        "to one place only"
                    )
                moves[part] = target
        return moves

    def flipped(self, generator: str, shape: Shape, names: Sequence[str]) -> set[int]:
        """Return which numbers of the field change their sign as they move.

        Raises:
            ValueError: An element is unknown.
        """
        where, size = f"flips of '{generator}'", math.prod(shape)
        return {_found(part, tuple(names), size, "element", where) for part in self.flips.get(generator, ())}

    def _count(self, shape: Shape) -> int:
        return len(self.parts) or shape[0]


class Matrices(_Kind):
    """Any other action: one orthogonal matrix for each generator."""

    kind: Literal["matrices"] = "matrices"
    generators: Annotated[Mapping[str, Sequence[Sequence[float]]], AfterValidator(_tuples)]
    """By generator: the rows of its matrix on the flattened field."""

    def require_fit(self, shape: Shape, names: Sequence[str]) -> None:  # noqa: ARG002
        """Raise ValueError unless each matrix is orthogonal and as wide as the field."""
        size = math.prod(shape)
        for generator, rows in self.generators.items():
            if len(rows) != size or any(len(row) != size for row in rows):
                raise ValueError(
                    f"the matrix of '{generator}' has {len(rows)} rows of {sorted(set(map(len, rows)))} numbers, but "
                    f"it must be {size} x {size}"
                )
            matrix = np.array(rows)
            error = float(np.abs(matrix @ matrix.T - np.eye(size)).max())
            if not error <= _ORTHOGONAL:
                raise ValueError(
                    f"the matrix of '{generator}' is not orthogonal (off by {error:.2g}); the likely cause is a scaled "
                    "entry or a wrong sign"
                )


_Any = Scalar | Pseudoscalar | Vector | Pseudovector | Angle | Ring | Parts | Matrices
KINDS: tuple[type[_Kind], ...] = get_args(_Any)
"""The classes of this module, one per kind."""


def _by_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Representation = Annotated[_Any, Discriminator("kind"), BeforeValidator(_by_name)]
"""One of the kinds. Text stands for a kind without more: `"vector"` is `Vector()`."""


def _found(part: Part, known: tuple[str, ...], count: int, what: str, where: str) -> int:
    if isinstance(part, int):
        if not 0 <= part < count:
            raise ValueError(f"{where} hold {what} {part}, but there are {count}, numbered from 0")
        return part
    if part not in known:
        import difflib  # a robot does without

        close = difflib.get_close_matches(part, known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ValueError(
            f"{where} hold {what} '{part}', but "
            + (
                f"the {what}s are {', '.join(known)}.{hint}"
                if known
                else f"no {what} has a name: name them, or number them from 0"
            )
        )
    return known.index(part)
