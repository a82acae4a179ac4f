"""Parts of a few centimetres, each a base with two to four features, all of the same three materials.

So a color names no part: parts differ by what lies where.
"""

from typing import Literal, NamedTuple

import numpy as np

Point = tuple[float, float, float]
Kind = Literal["box", "cylinder", "sphere", "capsule"]

_BASE = (0.56, 0.58, 0.61)  # steel
_FEATURES = (_BASE, (0.72, 0.6, 0.32), (0.2, 0.2, 0.22))  # or brass, or black plastic
_SHADE = 0.01
"""How far each number of a color may be from its material's."""
_HOLE = (0.05, 0.05, 0.06)
"""The color of a hole: a flat dark disc on the base."""


class Shape(NamedTuple):
    """One primitive of a part, lying on the part's own table plane z = 0."""

    kind: Kind
    size: tuple[float, ...]
    """Half lengths, or radius and half length, m, as MuJoCo has them."""
    position: Point
    """m."""
    yaw: float
    """Turn about z, rad."""
    lies: bool
    """Whether its axis lies along x, before the turn, and does not stand."""
    color: Point

    def mjcf(self) -> str:
        """Return the shape as an MJCF geom."""
        size, position, color = (" ".join(f"{value:.5g}" for value in each) for each in (
            self.size, self.position, (*self.color, 1.0)))  # fmt: skip
        half, tilt = self.yaw / 2, np.pi / 4 if self.lies else 0.0  # a quaternion: tilt about y, then turn about z
        turn = (np.cos(half) * np.cos(tilt), -np.sin(half) * np.sin(tilt),
                np.cos(half) * np.sin(tilt), np.sin(half) * np.cos(tilt))  # fmt: skip
        quaternion = " ".join(f"{value:.5g}" for value in turn)
        return f'<geom type="{self.kind}" size="{size}" pos="{position}" quat="{quaternion}" rgba="{color}"/>'


class Part(NamedTuple):
    """A part: a base, and features on and beside it, all within 50 mm of its middle."""

    base: tuple[Shape, ...]
    top: float
    """The height of the base, m."""
    features: tuple[Shape, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All its shapes."""
        return self.base + self.features

    def mjcf(self, name: str) -> str:
        """Return the part as an MJCF body that stays where it is put."""
        return f'<body name="{name}" mocap="true">{"".join(shape.mjcf() for shape in self.shapes)}</body>'


def draw_part(rng: np.random.Generator, like: Part | None = None) -> Part:
    """Draw a part. No two draws are alike.

    Args:
        rng: The source of all randomness.
        like: A part on whose base to put other features.

    """
    base, top = _base(rng, _shade(rng, _BASE)) if like is None else (like.base, like.top)
    features = tuple(_feature(rng, _shade(rng, _FEATURES[int(rng.integers(3))]), top) for _ in range(3))
    return Part(base, top, features)


def _shade(rng: np.random.Generator, material: Point) -> Point:
    red, green, blue = np.array(material) + rng.uniform(-_SHADE, _SHADE, 3)
    return float(red), float(green), float(blue)


def _base(rng: np.random.Generator, color: Point) -> tuple[tuple[Shape, ...], float]:
    """Return the shapes of a base about the middle, and the height of its top, m."""
    height, yaw = float(rng.uniform(0.003, 0.006)), float(rng.uniform(0, 2 * np.pi))
    middle = (0.0, 0.0, height)
    kind = rng.choice(["plate", "disc", "bar", "bracket"])
    if kind == "disc":
        shapes = (Shape("cylinder", (float(rng.uniform(0.017, 0.022)), height), middle, yaw, False, color),)
    elif kind == "bar":
        radius, length = float(rng.uniform(0.007, 0.01)), float(rng.uniform(0.022, 0.028))
        shapes, height = (Shape("capsule", (radius, length), (0.0, 0.0, radius), yaw, True, color),), radius
    else:
        size = (float(rng.uniform(0.02, 0.028)), float(rng.uniform(0.009, 0.014)), height)
        shapes = (Shape("box", size, middle, yaw, False, color),)
        if kind == "bracket":  # a second plate across one end
            end = (size[0] * np.cos(yaw), size[0] * np.sin(yaw), height)
            shapes += (Shape("box", (0.006, float(rng.uniform(0.014, 0.024)), height), end, yaw, False, color),)
    return shapes, 2 * height


def _feature(rng: np.random.Generator, color: Point, top: float) -> Shape:
    """Return a boss, a block, a rod, a dome or a hole somewhere on a base with its top at this height, m."""
    radius, angle = 0.028 * np.sqrt(rng.uniform(0.02, 1)), rng.uniform(0, 2 * np.pi)
    x, y, yaw = float(radius * np.cos(angle)), float(radius * np.sin(angle)), float(rng.uniform(0, 2 * np.pi))
    kind = rng.choice(["boss", "block", "rod", "dome", "hole"])
    if kind == "boss":
        high = top / 2 + float(rng.uniform(0.001, 0.005))
        return Shape("cylinder", (float(rng.uniform(0.004, 0.009)), high), (x, y, high), yaw, False, color)
    if kind == "block":
        high = top / 2 + float(rng.uniform(0.001, 0.004))
        size = (float(rng.uniform(0.004, 0.012)), float(rng.uniform(0.003, 0.006)), high)
        return Shape("box", size, (x, y, high), yaw, False, color)
    if kind == "rod":
        thin = float(rng.uniform(0.0025, 0.0045))
        x, y = 0.6 * x, 0.6 * y  # it is long
        return Shape("capsule", (thin, float(rng.uniform(0.01, 0.02))), (x, y, top + 0.5 * thin), yaw, True, color)
    if kind == "dome":
        round_ = float(rng.uniform(0.005, 0.009))
        return Shape("sphere", (round_,), (x, y, max(top - 0.3 * round_, 0.5 * round_)), yaw, False, color)
    x, y = 0.5 * x, 0.5 * y  # over most bases
    return Shape("cylinder", (float(rng.uniform(0.0035, 0.006)), 0.0005), (x, y, top), yaw, False, _HOLE)
