"""Find the flips and quarter turns in an augmentation of images, from pairs of an image and its augmented copy alone.

The pairs are averaged down to a few coarse pixels. K orthogonal maps are then fitted to them: each pair goes to the map
that explains it best, and each map is fitted anew to its pairs, by turns, until nothing changes. So the maps are what
the augmentation does, in K kinds. If all of them are near different flips and turns of the square, and the products of
these are among them, they are a group.

An augmentation that is none, such as a crop or noise, has one kind: its map is the identity. With more maps than there
are kinds, some of them explain parts of one kind and are near no element, or two are near the same one.

Sources: expectation-maximization with hard assignments (Celeux and Govaert, 1992); the orthogonal Procrustes problem
(Schönemann, 1966).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import FamilyError
from msr_runtime.families import FiniteFamily, rows_per_sample
from msr_runtime.meta.symmetry.grid import GridGroup
from msr_runtime.task import TaskFamily, sample_shape

COUNTS = (1, 2, 4, 8)
"""The orders of the subgroups of flips and quarter turns: so many maps are tried."""
COARSE = 3
"""Coarse pixels along an axis: on more, a small turn or crop moves more of what is seen."""
_PAIRS, _FEW, _STARTS, _BEST, _ROUNDS = 4096, 1024, 32, 2, 40
"""Pairs; pairs on which many random starts are tried; of which the best go on with all pairs; rounds of each."""
_SETTLED = 0.002
"""The share of the pairs that still go to another map when a fit ends."""
_NEAR = 0.35
"""How far a map may be from its element: the root mean square of the difference over that of two unrelated maps."""
_SPLIT = 1024  # pairs drawn from the family at once

_WORDS = {
    (1, 0, 0, 1): "identity",
    (1, 0, 0, -1): "left-right flip",
    (-1, 0, 0, 1): "up-down flip",
    (-1, 0, 0, -1): "half turn",
    (0, -1, 1, 0): "quarter turn to the left",
    (0, 1, -1, 0): "quarter turn to the right",
    (0, 1, 1, 0): "flip across the diagonal from the top left",
    (0, -1, -1, 0): "flip across the diagonal from the top right",
}


@dataclass(frozen=True)
class GridFinding:
    """What was found in an augmentation of images."""

    group: GridGroup | None
    """The group; None if the flips and turns that were found are none but the identity, or are no group."""
    costs: dict[int, float]
    """Number of maps to the mean squared error that they leave, relative to the augmented images."""
    distance: float
    """The largest distance of a map to its element, of the group's maps or, without a group, of the identity's: 0 is
    exact, 1 unrelated."""

    def __str__(self) -> str:
        if self.group is None:
            return "none"
        words = [_WORDS[tuple(matrix.ravel())] for matrix in self.group.matrices]
        return f"{self.group.name}, {len(words)} elements: {', '.join(words)}"


def find_grid_group(family: TaskFamily, rng: np.random.Generator) -> GridFinding:
    """Find the flips and quarter turns by which `family.augment` moves images, together with whatever else it does.

    Args:
        family: A family of square images. Its training tasks are drawn, and nothing else is asked of it.
        rng: The source of all randomness.

    Returns:
        The group, and how surely it was found.

    Raises:
        FamilyError: A sample of the family is no square image of at least 3 x 3 pixels.

    """
    shape = sample_shape(family.inputs)
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] < COARSE:
        raise FamilyError(
            f"family '{family.name}': a sample has the shape {shape}, but flips and turns are looked for in square "
            f"images (channels, size, size) of at least {COARSE} x {COARSE} pixels; see "
            "msr_runtime.meta.symmetry.find_group for vectors"
        )
    before, after = _pairs(family, shape, rng)
    costs, best = {}, GridFinding(None, {}, 1.0)
    for count in COUNTS:
        maps, cost = fit_maps(before, after, count, rng)
        costs[count] = float(cost)
        found, distance = _snap(maps)
        if found is not None:
            best = GridFinding(found if count > 1 else None, costs, distance)
    return GridFinding(best.group, costs, best.distance)


def fit_maps(
    before: NDArray[np.float64], after: NDArray[np.float64], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], float]:
    """Fit `count` orthogonal maps T to pairs by hard expectation-maximization: `after` is near `T before` for one T.

    Args:
        before: `(pairs, n)`.
        after: `(pairs, n)`.
        count: The number of maps.
        rng: The source of the random starts. Many are tried on some of the pairs, and the best of them on all.

    Returns:
        The maps `(count, n, n)`, and the mean squared error that they leave, relative to that of zeros.

    """
    scale = np.square(after).mean()
    some = slice(_FEW)
    starts = [_start(before, after, count, rng) for _ in range(_STARTS if count > 1 else 1)]
    tried = sorted((_descend(before[some], after[some], maps) for maps in starts), key=lambda end: end[1])
    maps, cost = min((_descend(before, after, maps) for maps, _ in tried[:_BEST]), key=lambda end: end[1])
    return maps, cost / scale


def _start(before: NDArray, after: NDArray, count: int, rng: np.random.Generator) -> NDArray:
    """Maps `(count, n, n)`, each fitted to a few random pairs."""
    chosen = rng.integers(len(before), size=(count, 6 * before.shape[1]))
    return np.stack([procrustes(before[each], after[each]) for each in chosen])


def _descend(before: NDArray, after: NDArray, maps: NDArray) -> tuple[NDArray, float]:
    """Assign and fit by turns, until nearly no pair goes to another map.

    A map that loses its pairs begins anew at the pairs that are explained worst.
    """
    assigned = None
    for _ in range(_ROUNDS):
        errors = np.square(after - before @ maps.mT).mean(-1)  # (count, pairs)
        nearest = errors.argmin(0)
        if assigned is not None and (nearest != assigned).mean() < _SETTLED:
            break
        assigned, worst = nearest, errors.min(0).argsort()[::-1]
        for index in range(len(maps)):
            mine = np.flatnonzero(nearest == index)
            if len(mine) < before.shape[1]:
                mine = worst[: 6 * before.shape[1]]
            maps[index] = procrustes(before[mine], after[mine])
    return maps, float(np.square(after - before @ maps.mT).mean(-1).min(0).mean())


def procrustes(before: NDArray, after: NDArray) -> NDArray:
    """The orthogonal map `(n, n)` that takes `before` `(pairs, n)` nearest to `after`."""
    left, _, right = np.linalg.svd(after.T @ before)
    return left @ right


def _pairs(family: TaskFamily, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Coarse images and their augmented copies: `(pairs, 9)` each, of all channels."""
    before, after = [], []
    # drawing samples of a task may be cheap where drawing tasks is not: a camera's scene is then built once
    queries = len(family.query_sets) * (1 if rows_per_sample(family) > 1 or isinstance(family, FiniteFamily) else 16)
    tasks = max(1, _SPLIT // (queries * rows_per_sample(family)))
    shrink = _shrinking(shape[1])
    while sum(map(len, before)) < _PAIRS:
        batch = family.sample(rng, tasks, 1, queries, "train")
        moved, _ = family.augment(rng, batch.query_x, batch.query_y)
        before.append(_coarse(batch.query_x, shrink))
        after.append(_coarse(moved, shrink))
    return np.concatenate(before), np.concatenate(after)


def _shrinking(size: int) -> NDArray[np.float64]:
    """Averages `size` pixels down to a few, each over its share of the axis: `(coarse, size)`."""
    edges = np.linspace(0, size, COARSE + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)
    return (np.minimum(high, pixel + 1) - np.maximum(low, pixel)).clip(min=0) * COARSE / size


def _coarse(x: NDArray, shrink: NDArray) -> NDArray[np.float64]:
    """Coarse pixels `(images, 9)` of `(tasks, samples, channels, size, size)`, without their mean."""
    small = (shrink @ x.astype(np.float64) @ shrink.T).reshape(-1, len(shrink) ** 2)
    return small - small.mean(1, keepdims=True)


def _snap(maps: NDArray) -> tuple[GridGroup | None, float]:
    """The group whose elements are nearest to the maps, and the largest distance. None if they are no group."""
    everything = GridGroup.named("D4")
    permutations = everything.on_grid(COARSE, COARSE)
    elements = np.eye(COARSE**2)[permutations]
    center = np.eye(COARSE**2) - 1 / COARSE**2  # pairs have no mean, so that maps are free on it
    away = np.square(center @ (maps[:, None] - elements) @ center).sum((-1, -2)) / (2 * (COARSE**2 - 1))
    nearest, distance = away.argmin(1), float(np.sqrt(away.min(1).max()))
    group = everything.subgroup(nearest)
    return (group if distance <= _NEAR else None), distance
