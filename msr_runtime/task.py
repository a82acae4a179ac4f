"""The words that simulation, training, export and robot share: fields, task batches, groups and families.

Plain numpy and pydantic, so that every package can speak them: simulators without torch, the robot without either.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

Array = NDArray[np.float32]
Loss = Literal["mse", "huber", "cross_entropy"]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Shape = tuple[int, ...]
Figures = tuple[float, ...] | tuple[tuple[float], ...] | tuple[tuple[tuple[float]], ...]
"""One number for each of a vector `(n,)`, or for each channel of a signal `(channels, 1)` or image `(channels, 1, 1)`:
in the shape in which they meet a sample."""

Predict = Callable[[Array], Array]
"""A network ready to act: x `(batch, *x)` in raw units to y `(batch, *y)` in raw units."""

Adapt = Callable[[Array, Array], Predict]
"""Support x `(shots, *x)` and y `(shots, *y)` of one task in, the network adapted to that task out."""


class Field(BaseModel):
    """One named part of a network's input or output vector, as the robot knows it."""

    # JSON has no infinity: a bound that has none is written as the string "Infinity", which reads back as the float
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    name: str
    """The field's name, unique within its side, for example `velocity`."""
    shape: tuple[int, ...]
    """Its shape; the vector holds it flattened in C order. An image, `(channels, height, width)`, is a side's only
    field, and then its samples have this shape and are no vector (see `sample_shape`)."""
    unit: str
    """Its unit as text, `m/s`; `1` for a pure number."""
    low: float
    """The smallest value expected, in `unit`."""
    high: float
    """The largest value expected, in `unit`."""

    @model_validator(mode="after")
    def _check(self) -> "Field":
        if not self.low < self.high:
            raise ValueError(
                f"field '{self.name}': low is {self.low} and high is {self.high}, but low must be below high"
            )
        if any(n < 1 for n in self.shape):
            raise ValueError(f"field '{self.name}': shape {self.shape} holds an axis shorter than 1")
        return self

    @property
    def size(self) -> int:
        """How many numbers the field takes in the vector."""
        return math.prod(self.shape)


def width(fields: Sequence[Field]) -> int:
    """The length of the vector that `fields` make, in order."""
    return sum(field.size for field in fields)


def sample_shape(fields: Sequence[Field]) -> Shape:
    """The shape of one sample: a lone field's own if it has several axes, as an image has, and else a vector's."""
    return fields[0].shape if len(fields) == 1 and len(fields[0].shape) > 1 else (width(fields),)


def answer_shape(fields: Sequence[Field], loss: Loss) -> Shape:
    """The shape of a network's answer to one sample: `sample_shape`, or for labels a vector of scores, one a class."""
    return (width(fields),) if loss == "cross_entropy" else sample_shape(fields)


def field_slices(fields: Sequence[Field]) -> dict[str, slice]:
    """Where each field lies in the vector: name to slice."""
    slices, start = {}, 0
    for field in fields:
        slices[field.name] = slice(start, start + field.size)
        start += field.size
    return slices


class TaskBatch(NamedTuple):
    """Support and query samples of several tasks, float32 in raw units (labels int64)."""

    support_x: NDArray
    """`(tasks, shots, *x)`: what the inner loop sees."""
    support_y: NDArray
    """`(tasks, shots, *y)`."""
    query_x: NDArray
    """`(tasks, queries, *x)`: what the outer loss is taken on."""
    query_y: NDArray
    """`(tasks, queries, *y)`."""


class Group(NamedTuple):
    """A finite group as matrices on the input and on the output vector, element by element; element 0 is the identity.

    Every matrix is orthogonal, and `outputs[i]` belongs to `inputs[i]`: a family is symmetric when
    `f(inputs[i] x) = outputs[i] f(x)` for each of its tasks.
    """

    name: str
    """The group's usual name, for example `C16`."""
    inputs: NDArray[np.float64]
    """`(order, x, x)`."""
    outputs: NDArray[np.float64]
    """`(order, y, y)`."""

    @property
    def order(self) -> int:
        """The number of elements."""
        return len(self.inputs)


class ClosedLoop(NamedTuple):
    """What a controller achieved in closed loop, one figure a task."""

    metric: str
    """What was measured, for example `goals reached`."""
    unit: str
    """Its unit; `1` for a share."""
    higher_is_better: bool
    values: NDArray[np.float64]
    """`(tasks,)`: the mean over the task's episodes, in `unit`."""


@runtime_checkable
class TaskFamily(Protocol):
    """A distribution of tasks that share one symmetry: all that the trainer knows of a robot.

    `query_sets` names the equal, consecutive parts of the query axis, in order: `("sector", "wide")` says that the
    first half of every task's queries comes from the support's own region and the second half from everywhere.
    """

    name: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    loss: Loss
    query_sets: tuple[str, ...]

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw fresh tasks of one split with their support and query samples, none of them augmented."""
        ...

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Apply one random group element an example to x `(..., *x)` and y `(..., *y)` together."""
        ...


@runtime_checkable
class SymmetricFamily(TaskFamily, Protocol):
    """A family that can write its finite group down as matrices."""

    def group(self) -> Group:
        """The group on the input and output vectors."""
        ...


@runtime_checkable
class StackedFamily(TaskFamily, Protocol):
    """A family whose every sample is several consecutive rows: `(tasks, samples * rows, *x)`.

    The rows of a sample are drawn together, and mean something only together, to one linear layer under the mean
    squared error. `shots` and `queries` count samples.
    """

    rows: int


def rows_a_sample(family: TaskFamily) -> int:
    """How many rows of its arrays the family gives for each sample: 1 unless it is a StackedFamily."""
    return family.rows if isinstance(family, StackedFamily) else 1


@runtime_checkable
class ClosedLoopFamily(TaskFamily, Protocol):
    """A family whose robot can be driven."""

    rate_hz: float

    def evaluate(self, adapt: Adapt | None, rng: np.random.Generator, tasks: int, split: Split) -> ClosedLoop:
        """Drive `tasks` fresh tasks with the adapted network, or with the family's reference if `adapt` is None.

        The same `rng` state gives the same tasks, supports and episodes, so that two controllers compare in pairs.
        """
        ...
