"""Read a `.npz` file of images by class, and shrink the images. Each file is read once and kept in memory as uint8."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.npz import read_npz
from msr_runtime.errors import FamilyError

Pixels = NDArray[np.uint8]
_SMALLEST = 4
"""Height and width of the smallest images, pixels."""


class Archive(NamedTuple):
    """The images of one file, and its other arrays of one number per class."""

    images: Pixels
    """`(classes, images per class, channels, size, size)`. It cannot be written to: families share it."""
    by_class: Mapping[str, NDArray]
    """Every other array whose first axis is as long as there are classes, such as the split."""


def read_archive(family: str, path: Path, size: int | None) -> Archive:
    """Return the images of the file.

    Args:
        family: The family's name, for messages.
        path: The file. Its array `images` is uint8 `(classes, images per class, height, width)` or, with a last axis of
            1 or 3 channels, `(classes, images per class, height, width, channels)`. The images are square.
        size: Height and width to which the images are shrunk, pixels. None: as they are.

    Raises:
        FamilyError: The file is missing or damaged, or holds no such images of 4 x 4 pixels or more; all their
            pixels are equal; or `size` is not from 4 to their size.

    """
    if not path.is_file():
        seen = "is no file" if path.exists() else "does not exist"
        raise FamilyError(
            f"family '{family}': its file '{path}' {seen} (looked for {path.resolve()}); correct the option file, or "
            "the environment variable that names the file"
        )
    stat = path.stat()
    return _read(family, path.resolve(), size, (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=4)  # a training, and perhaps two or three families beside it
def _read(family: str, path: Path, size: int | None, _changed: tuple[int, int]) -> Archive:
    arrays, _ = read_npz(f"family '{family}': its file", path)
    if "images" not in arrays:
        _fail(family, path, f"the array 'images' is missing; there are {', '.join(arrays) or 'none'}")
    images = arrays.pop("images")
    if images.dtype != np.uint8:
        _fail(family, path, f"images has the dtype {images.dtype}, but uint8 is wanted, from 0 to 255 as cameras give")
    given = images.shape
    if images.ndim == 4:
        images = images[..., None]
    if images.ndim != 5 or 0 in images.shape or images.shape[4] not in (1, 3):
        _fail(
            family,
            path,
            f"images has the shape {given}, but (classes, images per class, height, width) is wanted, or the "
            "same with a last axis of 1 or 3 channels",
        )
    height, width = images.shape[2:4]
    if height != width:
        _fail(family, path, f"its images are {height} x {width}, but a turned image must fit: cut or pad to squares")
    if height < _SMALLEST:
        _fail(
            family,
            path,
            f"its images have {height} x {height} pixels, but at least {_SMALLEST} x {_SMALLEST} are wanted",
        )
    if images.min() == images.max():
        _fail(family, path, f"every pixel of its images is {images.min()}, so that no class looks unlike another")
    if size is not None and (not isinstance(size, int) or not _SMALLEST <= size <= height):
        raise FamilyError(
            f"family '{family}': size is {size!r}, but the images of '{path}' have {height} x {height} pixels, and can "
            f"only be shrunk, to {_SMALLEST} or more; set size from {_SMALLEST} to {height}"
        )
    small = np.ascontiguousarray(np.moveaxis(images, -1, 2))
    if size is not None and size < height:
        small = shrink(small, size)
    small.flags.writeable = False
    classes = len(images)
    return Archive(small, {name: array for name, array in arrays.items() if array.shape[:1] == (classes,)})


def shrink(images: Pixels, size: int) -> Pixels:
    """Shrink images `(..., height, height)` to `(..., size, size)` by exact area averaging, rounded.

    Each new pixel is the mean over the square that it covers. Pixels that lie in it in part count by that part, so any
    ratio of sizes is possible.
    """
    height = images.shape[-1]
    edges = np.arange(size + 1) * (height / size)
    pixel = np.arange(height)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    average = (np.clip(covered, 0, None) * (size / height)).astype(np.float32)  # (size, height)
    small = np.empty((*images.shape[:-2], size, size), np.uint8)
    for part, into in zip(images, small, strict=True):  # one class at a time: float32 takes four times the memory
        into[:] = np.rint(average @ part.astype(np.float32) @ average.T)
    return small


def _fail(family: str, path: Path, message: str) -> None:
    raise FamilyError(f"family '{family}': in its file '{path}', {message}; correct the file, or name another (file)")
