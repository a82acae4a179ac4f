"""Families of stored images that break one rule each: the trainer draws other images than `sample` and `augment`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs import check_family
from msr_envs.images import Images
from msr_runtime.errors import FamilyError
from msr_runtime.families import Episodes
from msr_runtime.task import Field, Split, TaskBatch

OF_FOUR = (Field(name="class", shape=(4,), unit="1", low=0.0, high=1.0),)


class LooksTwice(Images):
    """It draws a number more before `sample` than before `episodes`."""

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw once too often."""
        rng.random()
        return super().sample(rng, tasks, shots, queries, split)


class MovesTwice(Images):
    """Its maps are not those of `augment`."""

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Draw once too often."""
        rng.random()
        return super().augment(rng, x, y)


class CountsTooFar(Images):
    """Its numbers are those of more images than there are."""

    def episodes(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> Episodes:
        """Add the number of all images. `sample` does as it always did."""
        drawn = super().episodes(rng, tasks, shots, queries, split)
        return drawn._replace(query=drawn.query + len(self.images))

    def pictures(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Count as before."""
        return super().pictures(numbers % len(self.images))


class Listed(Images):
    """It returns a bare tuple."""

    def episodes(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> Any:
        """Lose the names."""
        return tuple(super().episodes(rng, tasks, shots, queries, split))

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw as before."""
        support, support_y, query, query_y = self.episodes(rng, tasks, shots, queries, split)
        return TaskBatch(self.pictures(support), support_y, self.pictures(query), query_y)


class DoubleWarps(Images):
    """Its maps are float64, which torch would not multiply with images."""

    def warps(self, rng: np.random.Generator, count: int) -> Any:
        """Draw as before."""
        return super().warps(rng, count).astype(np.float64)


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (LooksTwice, "episodes and sample gave another support_x for equal generators"),
        (MovesTwice, "augment and warps moved images differently for equal generators"),
        (
            CountsTooFar,
            r"episodes gave query numbers from \d+ to \d+, but 288 images with 1 turns have the numbers 0 to",
        ),
        (Listed, "episodes returned tuple, but it must return Episodes"),
        (DoubleWarps, r"warps\(\d+\) gave \(\d+, 2, 3\) float64, but"),
    ],
)
def test_broken_draws_are_named(image_file: Path, family: Any, words: str) -> None:
    """The message says which member is wrong, and the likely cause."""
    with pytest.raises(FamilyError, match=words):
        check_family(family(image_file, ways=3))


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("images", np.zeros((288, 1, 8, 8), np.float32), r"images is \(288, 1, 8, 8\) float32, but \(count, 1, 8, 8\)"),
        ("images", np.zeros((288, 8, 8), np.uint8), r"images is \(288, 8, 8\) uint8"),
        ("outputs", OF_FOUR, "ways is 3, loss is cross_entropy and outputs has 4 numbers"),
        ("turns", np.arange(64)[None, ::-1], r"turns must be orders of the 64 pixels, \(turns, 64\)"),
        ("turns", np.zeros((1, 64), np.int64), "turns must be orders"),
        ("padding", "mirror", "padding is 'mirror', but it must be one of zeros, border"),
    ],
)
def test_wrong_members_are_named(image_file: Path, member: str, value: Any, words: str) -> None:
    """With what was seen and what is wanted."""
    family: Any = Images(image_file, ways=3, flips="none")
    sound = Images(image_file, ways=3, flips="none")
    family.sample, family.augment = sound.sample, sound.augment  # they work: what the trainer uses instead is broken
    setattr(family, member, value)
    with pytest.raises(FamilyError, match=words):
        check_family(family)
