"""The sizes of a convolution, how much of it is computed at a time, and the memory that this takes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msr_c.graphs.dims import Dims
from msr_c.writing.images import ROWS

_FRAME = 16384
"""The most numbers of a frame, unless one row of an image needs more: 64 kB stay in the second cache."""
_POSITIONS = 64
"""Small images are computed together, up to so many positions."""
_SLOWER = 1.06
"""What smaller frames may cost: so much more time."""


class Window(NamedTuple):
    """A convolution of images, from the large ones (inner channels) to the small ones (outer channels)."""

    inner: int
    outer: int
    groups: int
    large: Sequence[int]
    """Height and width. A signal has a height of one."""
    small: Sequence[int]
    taps: Sequence[int]
    steps: Sequence[int]
    """Strides."""
    pads: Sequence[int]
    apart: Sequence[int]
    """Dilations."""

    @classmethod
    def of(cls, large: Dims, small: Dims, settings: Mapping[str, Any]) -> "Window":
        """Return the window of images `(n, *size, channels)` and the settings of an operation."""
        inner, outer = (shape[-1].at(1) for shape in (large, small))
        large_size, small_size = (_two([dim.at(1) for dim in shape[1:-1]]) for shape in (large, small))
        taps, steps = (_two(settings[name]) for name in ("taps", "strides"))
        pads, apart = _two(settings["pads"], 0), _two(settings["dilations"])
        return cls(inner, outer, settings["groups"], large_size, small_size, taps, steps, pads, apart)

    def convolved(self, samples: int) -> "Part":
        """Return how a result or a gradient by filters is computed, of at most so many images."""
        reach = [(tap - 1) * apart + 1 for tap, apart in zip(self.taps, self.apart, strict=True)]
        across = (self.small[1] - 1) * self.steps[1] + reach[1]
        depth = self.inner // self.groups * self.taps[0] * self.taps[1]
        part = self._part(samples, self.small, self.steps[0], reach[0], across * self.inner)
        return part._replace(depth=depth)

    def spread(self, samples: int) -> "Part":
        """Return how a gradient by images is computed, of at most so many images."""
        axes = list(zip(self.large, self.steps, self.pads, strict=True))
        whole = [(size - 1 + pad) // step + 1 for size, step, pad in axes]
        over = [(tap - 1) * a // step for tap, a, step in zip(self.taps, self.apart, self.steps, strict=True)]
        reaching = [
            max(sum(tap * a % step == phase for tap in range(taps)) for phase in range(step))
            for taps, a, step in zip(self.taps, self.apart, self.steps, strict=True)
        ]
        part = self._part(samples, whole, 1, over[0] + 1, (whole[1] + over[1]) * self.outer)
        return part._replace(depth=reaching[0] * reaching[1] * self.outer // self.groups)

    def _part(self, samples: int, sizes: Sequence[int], step: int, reach: int, row: int) -> "Part":
        """The smallest part that takes hardly longer than the fastest, with frames whose rows have so many numbers."""
        rows, columns = sizes
        found = []
        for band in range(1, rows + 1):
            frame = ((band - 1) * step + reach) * row
            together = min(samples, _POSITIONS // (rows * columns)) if band == rows else 1
            found += [
                Part(images, band, images * frame, images * band * columns, 0)
                for images in range(1, max(1, together) + 1)
                if images * frame <= _FRAME or images == band == 1
            ]
        cost = {part: part.cost(rows, columns) for part in found}
        least = min(cost.values())
        return min((part for part in found if cost[part] <= least * _SLOWER), key=lambda part: part.frame)

    def text(self, part: "Part") -> str:
        """Return the structure in C."""
        pairs = (self.large, self.small, self.taps, self.steps, self.pads, self.apart, (part.images, part.band))
        numbers = [self.inner, self.outer, self.groups, *(each for pair in pairs for each in pair)]
        return f"(window){{{', '.join(map(str, numbers))}}}"


class Part(NamedTuple):
    """How much of a convolution is computed at a time."""

    images: int
    band: int
    """Rows of each image."""
    frame: int
    """Numbers of the frames."""
    positions: int
    depth: int
    """Products that are summed up, within a group."""

    def cost(self, rows: int, columns: int) -> float:
        """Return in how many blocks of rows the positions of an image are computed, and one for each part."""
        bands = [self.band] * (rows // self.band) + [rows % self.band] * (rows % self.band > 0)
        positions = [self.images * band * columns for band in bands]
        return sum(count // ROWS + count % ROWS + 1 for count in positions) / self.images


def _two(numbers: Sequence[int], missing: int = 1) -> list[int]:
    return [missing] * (2 - len(numbers)) + list(numbers)
