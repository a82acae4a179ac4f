"""Quarter turns and flips of a square image. They only change the order of its pixels, and so are exact."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.images.warps import Warps
from msr_runtime.task import Group, as_matrices

LARGEST = 1024
"""The group of larger images is written as orders of their numbers: one matrix of 42 x 42 RGB would take 224 MB."""


class ImageGroup(NamedTuple):
    """A group of quarter turns and flips."""

    name: str
    """`D4`, `C4`, `D2` or `D1`."""
    moves: tuple[tuple[int, bool], ...]
    """Each element: quarter turns counter-clockwise, and whether the image is flipped left-right before. The identity
    is the first."""
    words: tuple[str, ...]
    """Its generators in words."""

    def on_images(self, channels: int, size: int, ways: int) -> Group:
        """Return the group on the vector of an image `(channels, size, size)`. Classes stay as they are."""
        pixels = np.arange(channels * size * size).reshape(channels, size, size)
        flipped = {False: pixels, True: pixels[:, :, ::-1]}
        inputs = np.stack([np.rot90(flipped[flip], turns, (1, 2)).ravel() for turns, flip in self.moves])
        outputs = np.tile(np.eye(ways), (len(self.moves), 1, 1))
        return Group(self.name, as_matrices(inputs) if pixels.size <= LARGEST else inputs, outputs)


_LEFT_RIGHT, _UP_DOWN, _TURN = "flip left-right", "flip up-down", "turn by 90°"
_D4 = ImageGroup("D4", tuple((k, flip) for flip in (False, True) for k in range(4)), (_TURN, _LEFT_RIGHT))
_C4 = ImageGroup("C4", _D4.moves[:4], (_TURN,))
_D2 = ImageGroup("D2", ((0, False), (0, True), (2, True), (2, False)), (_LEFT_RIGHT, _UP_DOWN))
_D1 = ImageGroup("D1", _D2.moves[:2], (_LEFT_RIGHT,))


def exact_group(warping: Warps) -> ImageGroup | None:
    """Return the group of those quarter turns and flips that an augmentation draws, if there are any.

    Turns by smaller angles and crops are no part of it: they change what an image holds.
    """
    turns = warping.angle in ("quarter", "any") or (not isinstance(warping.angle, str) and warping.angle >= 90)
    if turns:
        return _C4 if warping.flips == "none" else _D4
    return {"none": None, "left-right": _D1, "both": _D2}[warping.flips]


def only_exact(warping: Warps) -> bool:
    """Return whether the augmentation draws nothing but quarter turns and flips."""
    return warping.angle in ("quarter", 0) and warping.crop == 1


def quarter_turns(size: int) -> NDArray[np.int64]:
    """Return `(4, size * size)`: pixel i of an image turned counter-clockwise k times is pixel `turns[k, i]` of it."""
    pixels = np.arange(size * size).reshape(size, size)
    return np.stack([np.rot90(pixels, turn).ravel() for turn in range(4)])
