"""Move images by affine maps: which maps an augmentation draws, and what a map does to an image.

A map `(2, 3)` takes a place in the new image to the place in the old image that is seen there. Places are `(x, y, 1)`;
x runs to the right and y downward, from -1 at one edge of the image to 1 at the other. This is the convention of
`torch.nn.functional.affine_grid` and `grid_sample` with `align_corners=False`, so that a training can move a whole
batch on its device: `move` here and `grid_sample` there give the same image up to rounding.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from msr_runtime.errors import FamilyError
from msr_runtime.families import Padding
from msr_runtime.task import Array

Angle = float | Literal["quarter", "any"]
Flips = Literal["none", "left-right", "both"]

FLIPS: tuple[Flips, ...] = ("none", "left-right", "both")


@dataclass(frozen=True)
class Warps:
    """What an augmentation draws for each image: a crop, flips and a turn, in this order.

    The default is that of the paper's Aug-Omniglot and Aug-MiniImagenet: turns within 30 degrees, both flips, crops of
    0.8 to 1 of the area that are resized to the whole image.

    Raises:
        FamilyError: A number or a word is not allowed. The message names the option.

    """

    angle: Angle = 30.0
    """Largest turn to either side in degrees, or `quarter` for multiples of 90 degrees, or `any`."""
    flips: Flips = "both"
    """`none`; `left-right`; or `both`, left-right and up-down. Each flip is drawn with probability 1/2."""
    crop: float = 0.8
    """Least share of the area that a crop keeps. The share is drawn evenly from here to 1, and so is the place of the
    crop. A crop is a square, and becomes the whole image. 1: no crop."""

    def __post_init__(self) -> None:
        angle = self.angle
        fits = angle in ("quarter", "any") if isinstance(angle, str) else 0 <= angle <= 180
        if not fits or isinstance(angle, bool):
            raise FamilyError(
                f"angle is {self.angle!r}, but it must be the largest turn in degrees, from 0 to 180, or 'quarter' "
                "(multiples of 90 degrees), or 'any'"
            )
        if self.flips not in FLIPS:
            raise FamilyError(f"flips is {self.flips!r}, but it must be one of {', '.join(FLIPS)}")
        if isinstance(self.crop, bool) or not isinstance(self.crop, int | float) or not 0 < self.crop <= 1:
            raise FamilyError(
                f"crop is {self.crop!r}, but it must be the least share of the area that is kept, above 0 and at most 1"
            )

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """Draw one map per image, `(count, 2, 3)`."""
        maps = np.zeros((count, 2, 3))
        if self.angle == "quarter":
            quarters = rng.integers(4, size=count)
            cos, sin = np.array([1.0, 0.0, -1.0, 0.0])[quarters], np.array([0.0, 1.0, 0.0, -1.0])[quarters]
        else:
            most = math.pi if self.angle == "any" else math.radians(float(self.angle))
            turn = rng.uniform(-most, most, count)
            cos, sin = np.cos(turn), np.sin(turn)
        maps[:, 0, 0], maps[:, 0, 1], maps[:, 1, 0], maps[:, 1, 1] = cos, -sin, sin, cos
        for axis in range(FLIPS.index(self.flips)):
            maps[:, axis] *= rng.choice([-1.0, 1.0], (count, 1))
        if self.crop < 1:
            side = np.sqrt(rng.uniform(self.crop, 1.0, (count, 1)))
            maps[:, :, :2] *= side[:, :, None]
            maps[:, :, 2] = (1 - side) * rng.uniform(-1.0, 1.0, (count, 2))
        return maps.astype(np.float32)

    @property
    def nothing(self) -> bool:
        """Whether every map is the identity."""
        return self.angle == 0 and self.flips == "none" and self.crop == 1

    def describe(self) -> str:
        """Return what is drawn, in words."""
        words = {"quarter": "turns by multiples of 90°", "any": "turns by any angle"}
        turn = words[self.angle] if isinstance(self.angle, str) else f"turns within {self.angle:g}°"
        parts = [] if self.angle == 0 else [turn]
        parts += {"none": [], "left-right": ["flips left-right"], "both": ["flips left-right and up-down"]}[self.flips]
        parts += [f"crops of {self.crop:g} to 1 of the area"] if self.crop < 1 else []
        return ", ".join(parts) or "nothing"


def move(images: Array, maps: Array, padding: Padding) -> Array:
    """Move images by maps, by bilinear interpolation between pixels.

    Args:
        images: `(count, channels, size, size)`.
        maps: One map per image, `(count, 2, 3)`.
        padding: What lies outside an image: `zeros`, or `border`, its nearest pixel.

    Returns:
        The moved images, in the same shape.

    """
    count, channels, size, _ = images.shape
    center = ((2 * np.arange(size, dtype=np.float32) + 1) / size - 1).astype(np.float32)
    across, down = np.tile(center, size), np.repeat(center, size)
    places = maps[:, :, :2] @ np.stack([across, down]) + maps[:, :, 2:]  # (count, 2, size * size)
    x, y = np.moveaxis(((places + 1) * size - 1) / 2, 1, 0)
    if padding == "border":
        x, y = x.clip(0, size - 1), y.clip(0, size - 1)
    left, top = np.floor(x), np.floor(y)
    flat = images.reshape(count, channels, size * size)
    moved = np.zeros_like(flat)
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        weight = (1 - np.abs(x - column)) * (1 - np.abs(y - row))
        inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        pixel = np.where(inside, row * size + column, 0).astype(np.intp)
        values = np.take_along_axis(flat, pixel[:, None], 2)
        moved += values * np.where(inside, weight, 0)[:, None].astype(np.float32)
    return moved.reshape(images.shape)
