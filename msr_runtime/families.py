"""What a task family may offer beyond `TaskFamily`: stored images, stacked rows, tasks of its own number or order."""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from msr_runtime.task import Array, Split, TaskFamily

Padding = Literal["zeros", "border"]
"""What lies outside an image that is moved: zeros, or its nearest pixel."""


@runtime_checkable
class StackedFamily(TaskFamily, Protocol):
    """A family in which one sample is several consecutive rows of the arrays: `(tasks, samples * rows, *x)`.

    The rows of one sample are drawn together and must stay together. They are valid only for one linear layer with the
    mean squared error. `shots` and `queries` count samples, not rows.
    """

    rows: int
    """Rows per sample."""


class Episodes(NamedTuple):
    """Which stored images an `EpisodicFamily` has drawn, in place of the images. Integers; labels are int64.

    Image number i is `images[i // len(turns)]`, turned by `turns[i % len(turns)]`.
    """

    support: NDArray[np.int64]
    """Numbers of the images of the support sets, `(tasks, shots * ways)`."""
    support_y: NDArray[np.int64]
    """Their labels, in the same shape."""
    query: NDArray[np.int64]
    """Numbers of the images of the query sets, `(tasks, queries * ways)`."""
    query_y: NDArray[np.int64]
    """Their labels, in the same shape."""


@runtime_checkable
class EpisodicFamily(TaskFamily, Protocol):
    """A family whose tasks are N-way K-shot episodes over stored images. The loss is `cross_entropy`.

    `shots` and `queries` count images of each class. A sample is one image of each of the `ways` classes: the arrays
    have `ways` consecutive rows per sample, `(tasks, shots * ways, channels, size, size)`, with the labels 0 to
    `ways - 1` in this order. Which class has which label is drawn anew for each task.

    Drawing such a task costs nothing, so every outer step draws new ones. The trainer keeps `images` on its device,
    draws `episodes` and `warps`, and picks and moves the images there. `sample` and `augment` do the same in numpy.
    """

    ways: int
    """Classes of each task."""
    examples: int
    """Images of each class. One task never has an image in both its support set and its query set."""
    images: NDArray[np.uint8]
    """All images, `(count, channels, size, size)`. x is the image divided by 255."""
    turns: NDArray[np.int64]
    """Turned copies of each image that are classes of their own, as the order of the pixels, `(turns, size * size)`.
    The first is the image as it is stored."""
    padding: Padding
    """What lies outside an image that is moved."""

    def episodes(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> Episodes:
        """Draw tasks as `sample` does from the same state of `rng`, but return the numbers of the images."""
        ...

    def warps(self, rng: np.random.Generator, count: int) -> Array:
        """Draw a map `(count, 2, 3)` for each of `count` images, as `augment` does.

        A map takes a place in the new image to the place in the old one, as `torch.nn.functional.affine_grid` does.
        """
        ...


@runtime_checkable
class FiniteFamily(TaskFamily, Protocol):
    """A family that cannot make new samples: each task has a fixed number of them, as a recording has.

    One call of `sample` never gives an example of a task to both its support set and its query set.
    """

    examples: int
    """Samples of each task."""


@runtime_checkable
class CountedFamily(TaskFamily, Protocol):
    """A family with a list of tasks: of logs, or of simulations that are kept. More than it has are repeats."""

    def count_tasks(self, split: Split) -> int:
        """Return how many tasks a split has."""
        ...


@runtime_checkable
class UnevenFamily(FiniteFamily, Protocol):
    """A recording whose tasks have different numbers of samples. `examples` is the smallest."""

    def at_least(self, examples: int) -> "FiniteFamily | None":
        """Return the family of those tasks that have so many samples, drawn from anywhere in a task.

        None if the split `train` has no such task. Other splits may then be empty.
        """
        ...


@runtime_checkable
class StreamFamily(FiniteFamily, Protocol):
    """A recording whose samples have an order in time."""

    consecutive: bool
    """Whether a support set is a stretch of consecutive samples which the queries follow, as on the robot. Training
    then takes both as they were drawn. Of a longer support set, it takes the last samples."""

    def last_value(self, support_y: Array, x: Array) -> Array:
        """Return what y `(queries, *y)` would be if nothing changed any more.

        Args:
            support_y: `(shots, *y)`, in the order of time.
            x: `(queries, *x)`.
        """
        ...


@runtime_checkable
class SharedScaleFamily(TaskFamily, Protocol):
    """A family without `group()` in which the numbers of a field are of one kind, such as a signal at 70 moments.

    They share one scale in the normalization. In other families without `group()` and without an augmentation, every
    number has a scale of its own.
    """

    shared_scale: bool
    """Whether they do. One scale keeps what the numbers have in common, such as one filter for all moments."""


def rows_per_sample(family: TaskFamily) -> int:
    """Return the number of array rows per sample: 1, `rows` of a `StackedFamily`, or `ways` of an `EpisodicFamily`."""
    if isinstance(family, EpisodicFamily):
        return family.ways
    return family.rows if isinstance(family, StackedFamily) else 1


def queries_beside(family: TaskFamily, shots: int, queries: int) -> int:
    """Return how many queries a task can have besides its shots: with stored images, as many as a class has left.

    More queries would be the same images again. The result is at least 1: a class without an image left is refused
    later, by name.
    """
    return max(1, min(queries, family.examples - shots)) if isinstance(family, EpisodicFamily) else queries


def takes_windows(family: TaskFamily) -> bool:
    """Return whether support and queries are consecutive samples, see `StreamFamily`."""
    return isinstance(family, StreamFamily) and family.consecutive
