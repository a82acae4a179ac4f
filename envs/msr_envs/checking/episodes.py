"""The part of `check_family` that checks a family of stored images: do its numbers and maps lead to its samples?"""

from typing import Any, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from msr_envs.images.warps import move
from msr_runtime.errors import FamilyError
from msr_runtime.families import Episodes, EpisodicFamily, Padding, queries_beside
from msr_runtime.task import TaskBatch, sample_shape, width

_TASKS, _SHOTS, _QUERIES = 2, 1, 2
_ROUNDING = 1e-4
"""Largest difference allowed between two ways to move one image by bilinear interpolation."""


def check_episodes(family: EpisodicFamily) -> None:
    """Check the members that the trainer uses in place of `sample` and `augment`, against both.

    Raises:
        FamilyError: At the first broken rule.

    """
    _check_members(family)
    queries = queries_beside(family, _SHOTS, _QUERIES)
    sizes = (_TASKS, _SHOTS, queries, "train")
    drawn: Any = family.episodes(np.random.default_rng(0), *sizes)
    if not isinstance(drawn, Episodes):
        _fail(family, f"episodes returned {type(drawn).__name__}, but it must return Episodes")
    batch = family.sample(np.random.default_rng(0), *sizes)
    pictures = [_pictures(family, "support", drawn.support), _pictures(family, "query", drawn.query)]
    found = TaskBatch(pictures[0], drawn.support_y, pictures[1], drawn.query_y)
    for part, array in found._asdict().items():
        wanted = getattr(batch, part)
        if array.shape != wanted.shape or not np.allclose(array, wanted, atol=1e-6):
            _fail(
                family,
                f"episodes and sample gave another {part} for equal generators, but training draws by the one and "
                "validation by the other; the likely cause is that one of them draws something more from rng, or that "
                "x is not the image divided by 255",
            )
    images = pictures[1].reshape(-1, *sample_shape(family.inputs))
    maps: Any = family.warps(np.random.default_rng(1), len(images))
    if not isinstance(maps, np.ndarray) or maps.shape != (len(images), 2, 3) or maps.dtype != np.float32:
        seen = f"{np.shape(maps)} {getattr(maps, 'dtype', type(maps).__name__)}"
        _fail(family, f"warps({len(images)}) gave {seen}, but ({len(images)}, 2, 3) float32 is wanted")
    moved, _ = family.augment(np.random.default_rng(1), pictures[1], drawn.query_y)
    if np.abs(move(images, maps, family.padding) - moved.reshape(images.shape)).max() > _ROUNDING:
        _fail(
            family,
            "augment and warps moved images differently for equal generators, but training moves by the one and "
            "validation by the other; the likely cause is that one draws something more from rng, or another padding "
            f"than '{family.padding}'",
        )


def _check_members(family: EpisodicFamily) -> None:
    images: Any = family.images
    shape = sample_shape(family.inputs)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != shape:
        seen = f"{np.shape(images)} {getattr(images, 'dtype', type(images).__name__)}"
        _fail(family, f"images is {seen}, but (count, {', '.join(map(str, shape))}) uint8 is wanted, as inputs says")
    if len(shape) != 3 or shape[1] != shape[2]:
        _fail(family, f"its images are {shape}, but (channels, size, size) is wanted: a turned image must fit")
    if family.loss != "cross_entropy" or family.ways != width(family.outputs):
        _fail(
            family,
            f"ways is {family.ways}, loss is {family.loss} and outputs has {width(family.outputs)} numbers, but "
            "outputs must have one number per class and the loss must be cross_entropy",
        )
    turns: Any = family.turns
    pixels = np.arange(shape[1] * shape[2])
    if (
        not isinstance(turns, np.ndarray)
        or turns.ndim != 2
        or not np.array_equal(np.sort(turns, 1), np.tile(pixels, (len(turns), 1)))
        or not np.array_equal(turns[0], pixels)
    ):
        _fail(family, f"turns must be orders of the {len(pixels)} pixels, (turns, {len(pixels)}), the first 0, 1, 2, …")
    if family.padding not in get_args(Padding):
        _fail(family, f"padding is {family.padding!r}, but it must be one of {', '.join(get_args(Padding))}")


def _pictures(family: EpisodicFamily, part: str, numbers: NDArray) -> NDArray[np.float32]:
    count = len(family.images) * len(family.turns)
    if numbers.min() < 0 or numbers.max() >= count:
        _fail(
            family,
            f"episodes gave {part} numbers from {numbers.min()} to {numbers.max()}, but {len(family.images)} images "
            f"with {len(family.turns)} turns have the numbers 0 to {count - 1}",
        )
    stored, turn = np.divmod(numbers, len(family.turns))
    flat = family.images[stored].reshape(*numbers.shape, family.images.shape[1], -1)
    flat = np.take_along_axis(flat, family.turns[turn][..., None, :], -1)
    return flat.reshape(*numbers.shape, *family.images.shape[1:]).astype(np.float32) / np.float32(255)


def _fail(family: EpisodicFamily, message: str) -> NoReturn:
    raise FamilyError(f"family '{family.name}': {message}")
