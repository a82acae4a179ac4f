"""Find the group of any family from its augmentation alone: matrices on vectors, flips and turns of square images.

Vectors are asked number by number (`discovery`), which is exact. Images are compared with their augmented copies on a
coarse grid (`grid_discovery`), which also sees a flip behind a small turn or a crop.
"""

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.families import StackedFamily, rows_per_sample
from msr_runtime.meta.symmetry.discovery import exact, find_group
from msr_runtime.meta.symmetry.equivariant import multiplication_table
from msr_runtime.meta.symmetry.grid import GridGroup, Permutations, product
from msr_runtime.meta.symmetry.grid_discovery import COARSE, find_grid_group, procrustes
from msr_runtime.meta.symmetry.words import in_words
from msr_runtime.task import Group, SymmetricFamily, TaskFamily, as_matrices, sample_shape, width

_MATRICES = 1024
"""The group on larger images is written as orders of their numbers: one matrix of 42 x 42 RGB would take 224 MB."""
_SAMPLES = 512
"""Samples from which is read what happens to y."""
_LINEAR = 1e-3
"""The largest error of the matrices on y, relative to the largest number of y."""


@dataclass(frozen=True)
class Discovery:
    """What was found in a family's augmentation."""

    group: Group | None
    """The group on the vectors of x and y. None if there is none, or if what it does to y is no matrix."""
    grid: GridGroup | None
    """The flips and turns of the image, if x is a square image and has any."""
    words: tuple[str, ...]
    """What was found: name and number of elements, then a line for each generator. `none` if nothing was."""
    seconds: float
    """How long it took."""

    @property
    def nothing(self) -> bool:
        """Whether nothing was found."""
        return self.group is None and self.grid is None

    def __str__(self) -> str:
        first, *lines = self.words
        return "\n".join([f"{first}; in {self.seconds:.1f} s", *lines])


def known_group(family: TaskFamily) -> Group | None:
    """Return the family's group: what `group()` gives or, without it, what is found from `augment`. None if unknown."""
    return family.group() if isinstance(family, SymmetricFamily) else discover_group(family).group


def discover_group(family: TaskFamily, seed: int = 0) -> Discovery:
    """Find the group by which `family.augment` moves samples. What `group()` says is not asked.

    Args:
        family: The family. Of a family of images, training tasks are drawn.
        seed: Seed of the pairs of images and of the search. Nothing is random where x is a vector.

    Returns:
        What was found. Of vectors, see `find_group`; of images, `find_grid_group`.

    Example:
        >>> from msr_envs import load_family
        >>> from msr_runtime.meta.symmetry import discover_group
        >>> found = discover_group(load_family("hex-drive"))
        >>> print(*found.words, sep="; ")
        C6, 6 elements; velocity turned by -60°, commands shifted by 5; of the outputs: velocity_change turned by -60°

    """
    began, grid, words = time.perf_counter(), None, ("none",)
    group = find_group(family)
    if group is not None:
        lines = in_words(group, family.inputs, family.outputs)
        words = (f"{group.name}, {group.order} elements", *lines)
    shape = sample_shape(family.inputs)
    if len(shape) == 3 and shape[1] == shape[2] >= COARSE and not isinstance(family, StackedFamily):
        rng = np.random.default_rng(seed)
        samples = _moved(family, rng)
        if not np.array_equal(samples.x, samples.moved_x):
            found = find_grid_group(family, rng)
            grid = found.group
            words = words if grid is None else (str(found),)
        if grid is not None and group is None:
            group = _on_vectors(grid, family, samples)
            words += () if group is not None else ("what becomes of y is no matrix for each element",)
    return Discovery(group, grid, words, time.perf_counter() - began)


class _Samples(NamedTuple):
    """Vectors `(samples, numbers)`, and what `augment` makes of them. A label is a vector with a one."""

    x: NDArray
    y: NDArray
    moved_x: NDArray
    moved_y: NDArray


def _moved(family: TaskFamily, rng: np.random.Generator) -> _Samples:
    queries = len(family.query_sets)
    tasks = math.ceil(_SAMPLES / (queries * rows_per_sample(family)))
    batch = family.sample(rng, tasks, 1, queries, "train")
    moved_x, moved_y = family.augment(rng, batch.query_x, batch.query_y)
    arrays = batch.query_x, batch.query_y, moved_x, moved_y
    if family.loss == "cross_entropy":
        one_hot = np.eye(width(family.outputs))
        arrays = arrays[0], one_hot[arrays[1]], arrays[2], one_hot[arrays[3]]
    return _Samples(*(array.reshape(-1, math.prod(array.shape[2:])) for array in arrays))


def _on_vectors(grid: GridGroup, family: TaskFamily, samples: _Samples) -> Group | None:
    """The group on the vector of an image and on that of y. None if what `augment` does to y is no matrix for each."""
    channels, size, _ = sample_shape(family.inputs)
    moves = product(grid.fixed(channels), grid.on_grid(size, size))
    outputs = _on_y(grid, moves, samples)
    if outputs is None:
        return None
    return Group(grid.name, as_matrices(moves) if moves.shape[1] <= _MATRICES else moves, outputs)


def _on_y(grid: GridGroup, moves: Permutations, samples: _Samples) -> NDArray[np.float64] | None:
    """Fit a matrix on y `(order, y, y)` to the samples that each element moved."""
    x, y, moved_x, moved_y = samples
    if np.array_equal(y, moved_y):
        return np.tile(np.eye(y.shape[1]), (grid.order, 1, 1))
    nearest = np.stack([np.square(moved_x - x[:, move]).sum(1) for move in moves]).argmin(0)
    own = [nearest == element for element in range(grid.order)]
    matrices = np.stack([procrustes(y[each], moved_y[each]) for each in own])
    error = np.abs(np.einsum("sij,sj->si", matrices[nearest], y) - moved_y).max()
    if error > _LINEAR * np.abs(y).max():
        return None
    matrices = exact(matrices, grid.table)
    try:
        multiplication_table(Group(grid.name, as_matrices(grid.on_grid(COARSE, COARSE)), matrices))
    except ValueError:  # some numbers of y were always zero, so that nothing says where they go
        return None
    return matrices
