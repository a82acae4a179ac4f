"""Episodes of few-shot classification over stored images: N classes, K images of each, and augmented queries."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msr_envs.images.archive import Archive, Pixels, read_archive
from msr_envs.images.turning import exact_group, only_exact, quarter_turns
from msr_envs.images.warps import Warps, move
from msr_envs.splits import require_split, split_generator
from msr_runtime.errors import FamilyError
from msr_runtime.families import Episodes, Padding
from msr_runtime.task import Array, Field, Group, Loss, Split, TaskBatch


class ImageEpisodes:
    """A family of `ways`-way episodes over the classes of one file. It is an `EpisodicFamily`.

    x is an image `(channels, size, size)` from 0 to 1. y is the number of its class in the task, from 0 on. The images
    of the support set are as they are stored. `augment` moves images by the maps that `warps` draws.

    If it draws flips or quarter turns, the family is also a `DeclaredFamily`: `group()` gives these. What `augment`
    does besides, such as crops, is not in it.

    Args:
        name: The family's name.
        archive: The images.
        classes: The classes of each split, as indices into `archive.images`. No class is in two splits.
        ways: Classes of each task.
        turned: Let each class, turned by 90, 180 and 270 degrees, be three more classes of the same split. Two turns of
            one class are never in one task: a turned query of the one could be an image of the other.
        warping: What `augment` draws.
        padding: What lies outside an image that is moved.

    Raises:
        FamilyError: A split has fewer classes than `ways`, or a class fewer images than two.

    """

    loss: Loss = "cross_entropy"
    query_sets: tuple[str, ...] = ("upright",)
    # Attributes of the object and not methods of the class: a family has them only if its group is known.
    group: Callable[[], Group]
    symmetry_in_words: Callable[[], tuple[str, ...]]
    turns_freely: bool

    def __init__(
        self,
        name: str,
        archive: Archive,
        classes: Mapping[Split, NDArray[np.int64]],
        *,
        ways: int,
        turned: bool,
        warping: Warps,
        padding: Padding,
    ) -> None:
        self.name: str = name
        if not isinstance(ways, int) or isinstance(ways, bool):
            raise FamilyError(f"family '{name}': ways is {ways!r}, but a whole number is wanted, from 2 on")
        if not isinstance(turned, bool):
            raise FamilyError(f"family '{name}': turned is {turned!r}, but it must be true or false")
        count, self.examples, channels, size, _ = archive.images.shape
        self.images: Pixels = archive.images.reshape(count * self.examples, channels, size, size)
        self.turns: NDArray[np.int64] = quarter_turns(size)[: 4 if turned else 1]
        self.padding: Padding = padding
        self.warping = warping
        self.ways: int = ways
        self._classes = dict(classes)
        split, members = min(self._classes.items(), key=lambda item: len(item[1]))
        if len(members) < 2:
            raise FamilyError(
                f"family '{name}': the split '{split}' has {len(members)} of the file's {count} classes, but a task "
                "tells at least 2 apart: give it more of them, in the array of the file that names each class's split"
            )
        if not 2 <= ways <= len(members):
            raise FamilyError(
                f"family '{name}': ways is {ways}, but it must be at least 2, and the split '{split}' has "
                f"{len(members)} classes; set ways from 2 to {len(members)}, or use a file with more classes"
            )
        if self.examples < 2:
            raise FamilyError(
                f"family '{name}': each class has {self.examples} image, but one is needed for the support set and "
                "one for the queries: use a file with more images per class"
            )
        self.inputs: tuple[Field, ...] = (
            Field(name="image", shape=(channels, size, size), unit="1", low=0.0, high=1.0),
        )
        self.outputs: tuple[Field, ...] = (Field(name="class", shape=(ways,), unit="1", low=0.0, high=1.0),)
        group = exact_group(warping)
        if group is not None:
            self.group = partial(group.on_images, channels, size, ways)
            self.symmetry_in_words = lambda: tuple(f"{word} of the image: the class stays" for word in group.words)
            self.turns_freely = not only_exact(warping)
        copies = ", each also turned by 90°, 180° and 270° as a class of its own" if turned else ""
        counts = ", ".join(f"{len(members)} in {split}" for split, members in self._classes.items())
        self.notes: tuple[str, ...] = (f"classes: {counts}{copies}", f"queries: {warping.describe()}")
        """What the tasks are made of, as text for the user."""

    def episodes(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> Episodes:
        """Draw which images `sample` gives for the same state of `rng`. The arguments are those of `sample`.

        A query is drawn twice only after every image of its class outside the support set.

        Raises:
            FamilyError: `split` is unknown, or a class has too few images for `shots` and a query.

        """
        require_split(self.name, split)
        if shots + min(queries, 1) > self.examples:
            raise FamilyError(
                f"family '{self.name}': {shots} shots and {queries} queries per class were asked for, but each class "
                f"has {self.examples} images, and support set and queries share none; ask for fewer (--settings.shots; "
                "of `msr samples`, --shots)"
            )
        child = split_generator(self.name, rng, split)
        members = self._classes[split]
        drawn = np.stack([child.choice(members, self.ways, replace=False) for _ in range(tasks)])
        turn = child.integers(len(self.turns), size=drawn.shape)
        order = child.random((tasks, self.examples, self.ways)).argsort(axis=1)
        others = order[:, shots:]
        query = others[:, np.arange(queries) % max(1, self.examples - shots)]
        label = np.arange(self.ways)
        return Episodes(
            self._numbers(drawn, turn, order[:, :shots]),
            np.tile(label, (tasks, shots)),
            self._numbers(drawn, turn, query),
            np.tile(label, (tasks, queries)),
        )

    def _numbers(
        self, drawn: NDArray[np.int64], turn: NDArray[np.int64], example: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the numbers `(tasks, samples * ways)` of images of the classes `drawn`, turned, `(tasks, ways)`."""
        image = drawn[:, None] * self.examples + example
        return (image * len(self.turns) + turn[:, None]).reshape(len(drawn), -1)

    def pictures(self, numbers: NDArray[np.int64]) -> Array:
        """Return the images with these numbers, `(*numbers, channels, size, size)`, from 0 to 1."""
        stored, turn = np.divmod(numbers, len(self.turns))
        x = self.images[stored]
        if len(self.turns) > 1:
            flat = x.reshape(*numbers.shape, x.shape[-3], -1)
            x = np.take_along_axis(flat, self.turns[turn][..., None, :], -1).reshape(x.shape)
        return x.astype(np.float32) / np.float32(255)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw tasks of one split. No image is moved.

        Args:
            rng: The source of all randomness.
            tasks: The number of tasks.
            shots: Support images of each class.
            queries: Query images of each class.
            split: The part of the classes to draw from.

        Returns:
            x `(tasks, shots or queries * ways, channels, size, size)` float32 and labels `(tasks, shots or queries *
            ways)` int64. Of `ways` consecutive images, each is of another class, with the labels from 0 on in order.

        Raises:
            FamilyError: As `episodes`.

        """
        drawn = self.episodes(rng, tasks, shots, queries, split)
        return TaskBatch(self.pictures(drawn.support), drawn.support_y, self.pictures(drawn.query), drawn.query_y)

    def warps(self, rng: np.random.Generator, count: int) -> Array:
        """Draw a map `(count, 2, 3)` for each of `count` images, see `msr_envs.images.warps`."""
        return self.warping.draw(rng, count)

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Move each image by a map of its own. A moved image keeps its class."""
        if self.warping.nothing:  # interpolation would round
            return x, y
        images = x.reshape(-1, *x.shape[-3:])
        return move(images, self.warps(rng, len(images)), self.padding).reshape(x.shape), y


def archive_of(name: str, file: str | Path | None, variable: str, size: int | None) -> Archive:
    """Read the file that the option `file` names or, without it, the environment variable."""
    named = os.environ.get(variable) if file is None else file
    if not named:
        raise FamilyError(
            f"family '{name}' reads its images from a file, but none is named: give it as the option file, as in "
            f"{name}:file=path/to/file.npz, or set the environment variable {variable} to its path"
        )
    return read_archive(name, Path(named), size)
