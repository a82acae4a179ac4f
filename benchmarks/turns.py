"""Find the turns in an augmentation that turns images by any angle: a cyclic group on a few features of the image.

Turns by any angle are infinitely many. K maps then stand for K equal parts of the circle, and each is the turn in the
middle of its part. Where the parts begin is open, so the maps are turns up to a common one, which is taken out.

The features are taken so that a turn is nearly an orthogonal map of them: a smoothed image at a few places within a
circle, in its main directions over the augmented images, each scaled to variance 1. The augmented images look alike in
every pose, so these directions are those of the turns.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from msr_envs.images.family import ImageEpisodes
from msr_runtime.meta.symmetry.discovery import exact
from msr_runtime.meta.symmetry.grid_discovery import fit_maps, procrustes
from msr_runtime.meta.training.episodes import move_images

_PLACES, _BLUR, _FEATURES = 9, 2.5 / 28, 12
"""Places along an axis; the width of the smoothing, as a share of the image's; features that are kept."""
_PAIRS, _TASKS = 8192, 64


class Turns(NamedTuple):
    """The maps that were found, as a cyclic group, and how well they are one."""

    closes: bool
    """Whether the nearest maps to the products of any two make the table of a cyclic group."""
    cost: float
    """The mean squared error that the maps leave, relative to the augmented features."""
    closure: float
    """The mean distance of the product of two maps to the nearest map, before they were made exact."""
    distance: float
    """The largest distance of a map of the exact group to what the turn by its angle does to the features."""


def find_turns(family: ImageEpisodes, count: int, rng: np.random.Generator) -> Turns:
    """Find turns by multiples of 360° / count in the augmentation of a family of images.

    Distances are root mean squares of the difference of two maps over that of unrelated ones: 0 is equal, 1 unrelated.
    """
    images, features = [], []
    while sum(map(len, images)) < _PAIRS:
        batch = family.sample(rng, _TASKS, 1, 1, "train")
        moved, _ = family.augment(rng, batch.query_x, batch.query_y)
        images.append(batch.query_x.reshape(-1, *batch.query_x.shape[2:]))
        features.append(_places(moved.reshape(images[-1].shape)))
    shown, after = np.concatenate(images), np.concatenate(features)
    middle = after.mean(0)
    variances, directions = np.linalg.eigh(np.cov(after.T))
    kept = slice(-1, -_FEATURES - 1, -1)
    white = directions[:, kept] / np.sqrt(variances[kept])
    before, after = (_places(shown) - middle) @ white, (after - middle) @ white
    maps, cost = fit_maps(before, after, count, rng)
    # taken from each of them in turn, the maps are turns; the one is chosen after which they close best
    maps, closure = min(((each.T @ maps, _closure(each.T @ maps)) for each in maps), key=lambda tried: tried[1])
    table = _products(maps).argmin(-1)
    order = _powers(table)
    if order is None:
        return Turns(False, cost, closure, float("nan"))
    maps = exact(maps[order], (np.arange(count)[:, None] + np.arange(count)) % count)
    turned = [(_places(_turned(shown, family, 2 * np.pi * k / count)) - middle) @ white for k in range(count)]
    wanted = np.stack([procrustes(before, each) for each in turned])
    # nothing says which generator is the turn by the smallest angle
    named = [maps[np.arange(count) * power % count] for power in range(1, count) if np.gcd(power, count) == 1]
    return Turns(True, cost, closure, float(min(_distance(each, wanted).max() for each in named)))


def _places(x: NDArray) -> NDArray[np.float64]:
    """Smooth images `(n, channels, size, size)`, summed over channels, at places within a circle: `(n, places)`."""
    size = x.shape[-1]
    pixel = np.arange(size) + 0.5
    place = (np.arange(_PLACES) + 0.5) * size / _PLACES
    kernel = np.exp(-np.square((place[:, None] - pixel) / (_BLUR * size)) / 2)
    kernel /= kernel.sum(1, keepdims=True)
    inside = np.hypot(*np.meshgrid(place - size / 2, place - size / 2)) <= size / 2
    return (kernel @ x.sum(1).astype(np.float64) @ kernel.T)[:, inside]


def _turned(x: NDArray, family: ImageEpisodes, angle: float) -> NDArray:
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]], np.float32)
    return move_images(torch.from_numpy(x), np.tile(turn, (len(x), 1, 1)), family.padding).numpy()


def _distance(maps: NDArray, others: NDArray) -> NDArray[np.float64]:
    return np.sqrt(np.square(maps - others).sum((-1, -2)) / (2 * maps.shape[-1]))


def _products(maps: NDArray) -> NDArray[np.float64]:
    """The distance of the product of any two maps to each map: `(count, count, count)`."""
    return _distance((maps[:, None] @ maps)[:, :, None], maps)


def _closure(maps: NDArray) -> float:
    return float(_products(maps).min(-1).mean())


def _powers(table: NDArray[np.intp]) -> list[int] | None:
    """The elements as powers of one of them, if the table is that of a cyclic group."""
    count = len(table)
    cyclic = (np.arange(count)[:, None] + np.arange(count)) % count
    for element in range(count):
        powers = [int(np.argmax((table == np.arange(count)).all(1)))]  # the identity
        while len(powers) < count:
            powers.append(int(table[powers[-1], element]))
        if len(set(powers)) == count and np.array_equal(table[np.ix_(powers, powers)], np.array(powers)[cyclic]):
            return powers
    return None
