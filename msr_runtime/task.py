"""The types that simulation, training, export and the robot share: fields, task batches, groups and families.

This module needs numpy and pydantic only. So simulators can use it without torch, and the robot without both.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from msr_runtime.representation import Representation

Array = NDArray[np.float32]
"""A float32 array of any shape."""

Loss = Literal["mse", "huber", "cross_entropy"]
"""Loss of one sample's output: mean squared error, Huber loss, or the cross-entropy of class scores."""

SLACK = 0.05
"""How far samples may lie outside a field's bounds, as a share of `high - low`. Sensor noise is allowed."""

_SHOWN_NAMES = 4

Split = Literal["train", "validation", "test"]
"""The part of the tasks to draw from. Each part has tasks of its own."""

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Kind = Literal["position", "velocity", "effort", "other"]
"""What the numbers of a field are: where something is, how fast it moves, with what force or torque, or something else.
"""


Shape = tuple[int, ...]
"""The shape of one array."""

Figures = tuple[float, ...] | tuple[tuple[float], ...] | tuple[tuple[tuple[float]], ...]
"""One number per entry of a vector `(n,)`, per channel of a signal `(channels, 1)`, or per channel of an image
`(channels, 1, 1)`. The shape is the one that broadcasts against a sample."""

Predict = Callable[[Array], Array]
"""A network ready to act: it maps x `(batch, *x)` to y `(batch, *y)`, both in raw units."""

Adapt = Callable[[Array, Array], Predict]
"""An adaptation: it takes the support set of one task, x `(shots, *x)` and y `(shots, *y)` in raw units. It returns the
network adapted to that task."""


class Field(BaseModel):
    """One named part of a network's input or output vector.

    Example:
        >>> from msr_runtime import Field
        >>> import math
        >>> velocity = Field(name="velocity", shape=(2,), unit="m/s", low=-1.0, high=1.0, kind="velocity")
        >>> velocity.size
        2
        >>> heading = Field(name="heading", shape=(1,), unit="rad", low=-math.pi, high=math.pi, wraps=2 * math.pi)
    """

    # JSON has no infinity. An infinite bound is written as the string "Infinity", and reads back as a float.
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    name: str
    """The field's name, for example `velocity`. It is unique among the inputs, or among the outputs."""
    shape: tuple[int, ...]
    """The field's shape. The vector holds the field flattened in C order.

    An image `(channels, height, width)` must be the only input field or the only output field. Its samples then keep
    this shape and are not flattened (see `sample_shape`). Cameras often give `(height, width, channels)`: move the
    channels first, with `np.moveaxis(image, -1, -3)`."""
    unit: str
    """The unit as text, for example `m/s`. A pure number has the unit `1`."""
    low: float
    """The smallest value expected, in `unit`."""
    high: float
    """The largest value expected, in `unit`."""
    kind: Kind = "other"
    """What the numbers are: `position`, `velocity`, `effort` (force, torque) or `other`, which also means: not said.

    `ActionGuard` brings a velocity and an effort to zero when it latches. `check_robot` compares the kinds."""
    wraps: float | None = None
    """One full turn, in `unit`, if the numbers are angles that jump from one end to the other: `2 * math.pi` for rad,
    360 for deg. None if they do not wrap, or if nobody said so. The bounds are at least one turn apart."""
    names: tuple[str, ...] = ()
    """The names of the field's elements, in order, such as joints. Empty if nobody named them.

    `check_robot` compares them: it sees joints in another order."""
    representation: Representation | None = None
    """How the family's symmetry group acts on the field, see `msr_runtime.representation`. None if nobody said so."""

    @model_validator(mode="after")
    def _check(self) -> "Field":
        if not self.low < self.high:
            raise ValueError(
                f"field '{self.name}': low is {self.low} and high is {self.high}, but low must be below high: "
                "swap them, or correct one"
            )
        if any(n < 1 for n in self.shape):
            raise ValueError(
                f"field '{self.name}': shape {self.shape} has an axis shorter than 1, but each axis must be 1 or more: "
                "give one number the shape (1,)"
            )
        if self.wraps is not None and not 0 < self.wraps <= self.high - self.low:
            raise ValueError(
                f"field '{self.name}': wraps is {self.wraps}, and the bounds are {self.low} and {self.high}, but wraps "
                "must be one full turn, above 0, and the bounds at least one turn apart: correct wraps, widen the "
                "bounds (write pi as math.pi), or leave wraps out"
            )
        if self.names and (len(self.names) != self.size or len(set(self.names)) < self.size):
            raise ValueError(
                f"field '{self.name}': names are {', '.join(self.names)}, but each of its {self.size} elements needs "
                "one name of its own: correct names or shape"
            )
        if self.representation is not None:
            try:
                self.representation.require_fit(self.shape, self.names)
            except ValueError as error:
                raise ValueError(f"field '{self.name}' as {self.representation.describe()}: {error}") from error
        return self

    @property
    def size(self) -> int:
        """The count of numbers that the field takes in the vector."""
        return math.prod(self.shape)

    def describe(self) -> str:
        """Return shape, unit, bounds and what else is said of the numbers, as text."""
        kind = "" if self.kind == "other" else f", {self.kind}"
        turn = "" if self.wraps is None else f", wraps after {self.wraps:g}"
        shown = self.names if len(self.names) <= _SHOWN_NAMES else (*self.names[: _SHOWN_NAMES - 1], "…")
        names = f" [{', '.join(shown)}]" if shown else ""
        return f"{self.shape} {self.unit}{names}, {self.low:g} to {self.high:g}{kind}{turn}"

    def agrees(self, other: "Field") -> bool:
        """Return whether two fields can describe the same numbers.

        What one of them leaves open is not compared: `kind`, `wraps`, `names`, `representation`. Older bundles and
        checkpoints do not say it.
        """
        said = ((field.name, field.shape, field.unit, field.low, field.high) for field in (self, other))
        optional = (
            (self.kind, other.kind, "other"),
            (self.wraps, other.wraps, None),
            (self.names, other.names, ()),
            (self.representation, other.representation, None),
        )
        return len(set(said)) == 1 and all(one == two or unsaid in (one, two) for one, two, unsaid in optional)


def fields_agree(fields: Sequence[Field], others: Sequence[Field]) -> bool:
    """Return whether both lists can describe the same vector, see `Field.agrees`."""
    return len(fields) == len(others) and all(map(Field.agrees, fields, others))


def width(fields: Sequence[Field]) -> int:
    """Return the length of the vector that holds all `fields`."""
    return sum(field.size for field in fields)


def sample_shape(fields: Sequence[Field]) -> Shape:
    """Return the shape of one sample.

    If there is only one field and it has several axes, as an image has, a sample has that field's shape. Otherwise a
    sample is a vector.
    """
    return fields[0].shape if len(fields) == 1 and len(fields[0].shape) > 1 else (width(fields),)


def output_shape(fields: Sequence[Field], loss: Loss) -> Shape:
    """Return the shape of a network's output for one sample.

    For the loss `cross_entropy` it is a vector with one score per class. Otherwise it is `sample_shape(fields)`.
    """
    return (width(fields),) if loss == "cross_entropy" else sample_shape(fields)


def image_layout(fields: Sequence[Field]) -> str | None:
    """Return how an image is read, as text, with a hint where its channels seem to be last. None without an image."""
    shape = sample_shape(fields)
    if len(shape) != 3:
        return None
    channels, height, width = shape
    read = f"{shape} is read as {channels} channels of {height} x {width}"
    if channels_last(shape):
        read += f"; if it is {width} channels of {channels} x {height}, move them first: np.moveaxis(image, -1, -3)"
    return read


def channels_last(shape: Shape) -> bool:
    """Return whether the shape of an image looks like `(height, width, channels)`, as cameras give it."""
    return len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) > 4


def field_slices(fields: Sequence[Field]) -> dict[str, slice]:
    """Return the slice of the vector that each field takes, by field name."""
    slices, start = {}, 0
    for field in fields:
        slices[field.name] = slice(start, start + field.size)
        start += field.size
    return slices


class TaskBatch(NamedTuple):
    """Support sets and query sets of several tasks, float32 in raw units. Labels are int64."""

    support_x: NDArray
    """Inputs of the support sets, `(tasks, shots, *x)`. The inner loop adapts on the support set."""
    support_y: NDArray
    """Outputs of the support sets, `(tasks, shots, *y)`."""
    query_x: NDArray
    """Inputs of the query sets, `(tasks, queries, *x)`. The outer loss is computed on the query set."""
    query_y: NDArray
    """Outputs of the query sets, `(tasks, queries, *y)`."""


class Group(NamedTuple):
    """A finite group, given as matrices that act on the input vector and on the output vector.

    Element `i` of the group acts on an input by `inputs[i]` and on an output by `outputs[i]`. Element 0 is the
    identity. Every matrix is orthogonal. A family is symmetric if `f(inputs[i] x) = outputs[i] f(x)` for each of its
    tasks `f` and each element `i`.

    Flips and quarter turns of an image only change the order of its pixels. Then `inputs` may hold these orders
    instead, `(order, x)` integers: number `j` of the moved vector is number `inputs[i, j]` of the vector. See `acted`
    and `as_matrices`.
    """

    name: str
    """The group's usual name, for example `C16`."""
    inputs: NDArray
    """One matrix per element, `(order, x, x)`; or one order of the numbers per element, `(order, x)`."""
    outputs: NDArray[np.float64]
    """One matrix per element, `(order, y, y)`."""

    @property
    def order(self) -> int:
        """The number of elements of the group."""
        return len(self.inputs)


def acted(element: NDArray, vectors: NDArray) -> NDArray:
    """Return vectors `(..., n)` moved by one element: a matrix `(n, n)`, or an order `(n,)` of their numbers."""
    return vectors @ element.T if element.ndim == 2 else vectors[..., element]


def as_matrices(elements: NDArray) -> NDArray[np.float64]:
    """Return elements as matrices `(order, n, n)`. Orders `(order, n)` become matrices of zeros and ones."""
    return elements if elements.ndim == 3 else np.eye(elements.shape[1])[elements]


class ClosedLoop(NamedTuple):
    """What a controller achieved in closed loop, one number per task."""

    metric: str
    """What was measured, for example `goals reached`."""
    unit: str
    """The unit of `values`. A fraction has the unit `1`."""
    higher_is_better: bool
    """Whether a larger value is a better one."""
    values: NDArray[np.float64]
    """The mean over each task's episodes, `(tasks,)`, in `unit`."""


@runtime_checkable
class TaskFamily(Protocol):
    """A distribution of tasks that share one symmetry. The trainer knows a robot through this interface only."""

    name: str
    """The family's name, for example `ring-nav`."""
    inputs: tuple[Field, ...]
    """The parts of a network's input vector, in order."""
    outputs: tuple[Field, ...]
    """The parts of a network's output vector, in order."""
    loss: Loss
    """The loss of the inner loop and of the outer loop."""
    query_sets: tuple[str, ...]
    """Names of the parts of each query set, in order. The parts are equally long and consecutive.

    For example, `("sector", "wide")` means: the first half of the query samples comes from the region of the support
    set, and the second half from the whole input space."""

    # The quotes keep numpy.random, which a robot does without, from being imported at its start.
    def sample(self, rng: "np.random.Generator", tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw new tasks of one split, with a support set and a query set per task. No sample is augmented.

        Args:
            rng: The source of all randomness.
            tasks: The number of tasks.
            shots: Support samples per task.
            queries: Query samples per task, a multiple of the number of `query_sets`.
            split: The part of the tasks to draw from.
        """
        ...

    def augment(self, rng: "np.random.Generator", x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Transform x `(..., *x)` and y `(..., *y)` together, by one random element of the group per sample."""
        ...


@runtime_checkable
class SymmetricFamily(TaskFamily, Protocol):
    """A family whose finite group is known as matrices."""

    def group(self) -> Group:
        """Return the group that acts on the input vector and on the output vector."""
        ...


@runtime_checkable
class DeclaredFamily(SymmetricFamily, Protocol):
    """A family whose group follows from what its fields say, see `msr_envs.symmetry.DeclaredSymmetry`."""

    def symmetry_in_words(self) -> tuple[str, ...]:
        """Return a line for each generator of the group: what it does to each field."""
        ...

    @property
    def turns_freely(self) -> bool:
        """Whether `augment` turns by any angle, or does more yet. `group()` then holds a sample of it."""
        ...


@runtime_checkable
class ClosedLoopFamily(TaskFamily, Protocol):
    """A family with a simulated robot that a network can drive."""

    rate_hz: float
    """The control rate of the simulation, in Hz."""

    def evaluate(self, adapt: Adapt | None, rng: "np.random.Generator", tasks: int, split: Split) -> ClosedLoop:
        """Drive the robot in new tasks and measure how well it does.

        The same state of `rng` gives the same tasks, support sets and episodes. So two controllers can be compared task
        by task.

        Args:
            adapt: Adapts the network to each task. None drives with the family's reference controller.
            rng: The source of all randomness.
            tasks: The number of tasks.
            split: The part of the tasks to draw from.
        """
        ...
