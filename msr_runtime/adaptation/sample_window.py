"""The window of recent samples: which observed samples enter it, and which of them are held out to judge updates."""

import math
from collections import Counter
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.arrays import all_finite
from msr_runtime.bundle.manifest import Normalization
from msr_runtime.inference.input_bounds import InputBounds
from msr_runtime.inference.sample_spec import SampleSpec

_OUTLIER = 1000.0
"""Largest distance of a value from the center of the training data, in its scales. No working sensor is that far off,
and one such sample would outweigh all others."""


class LeftOut(StrEnum):
    """Why a sample did not enter the window."""

    STRIDE = "stride"
    """The stride skips this sample."""
    NOT_FINITE = "not finite"
    """A value is NaN or infinite."""
    NO_CLASS = "label of no class"
    """The label is negative, or not below the number of classes."""
    ABSURD = "absurd"
    """A value is further outside its bounds than the manifest's `input_limit`."""
    OUTLIER = "outlier"
    """A value is more than 1000 scales away from the center of the training data."""
    OUTSIDE = "y outside bounds"
    """A value of y is outside the bounds of its field, so it is no measurement of what the network is to learn."""
    NEAR = "near another"
    """A sample in the window is nearer than `novelty`."""
    FROZEN = "frozen"
    """Nothing was to be learned at this time, see `OnlineAdapter.freeze`."""
    OLD_TASK = "of the task before"
    """The task changed after x was observed, see `OnlineAdapter.task_changed`."""
    NO_Y = "y never came"
    """Later samples have taken the place of this x before its y came."""
    NO_X = "y without x"
    """No x of this time waits for its y: it was never observed, or its y came too late."""


class Samples(NamedTuple):
    """Samples in raw units. The arrays are views: read them before the next sample enters."""

    x: NDArray
    """`(samples, *x)`, float32."""
    y: NDArray
    """`(samples, *y)`, float32, or int64 labels."""


class SampleWindow:
    """The latest samples, split into a support set (`support`) and held-out samples (`held_out`).

    Every `held_out`-th sample that enters is held out, so both sets cover the same stretch of time. Not safe to call
    from several threads.
    """

    def __init__(
        self,
        sides: tuple[SampleSpec, SampleSpec],
        normalization: Normalization,
        bounds: InputBounds,
        window: int,
        stride: int,
        novelty: float | None,
        held_out: int,
    ) -> None:
        """Make an empty window.

        Args:
            sides: What one sample is: its x and its y.
            normalization: Center and scale of every value; outliers and distances are measured in these scales.
            bounds: The bounds of y.
            window: Number of samples in the support set.
            stride: As in `OnlineAdapter`, which also checks the ranges of these four numbers.
            novelty: As in `OnlineAdapter`.
            held_out: As in `OnlineAdapter`.
        """
        x, y = sides
        self._y, self._labels = y, y.dtype.kind != "f"
        # The manifest has one center and scale per value of a vector, but one per channel of an image: spread the
        # latter over all pixels. Labels are classes, not measurements, so they have no scale.
        center = [np.broadcast_to(normalization.input_center, x.shape).reshape(-1)]
        scale = [np.broadcast_to(normalization.input_scale, x.shape).reshape(-1)]
        if not self._labels:
            center.append(np.broadcast_to(normalization.output_center, y.shape).reshape(-1))
            scale.append(np.broadcast_to(normalization.output_scale, y.shape).reshape(-1))
        self._center, self._scale = np.concatenate(center), np.concatenate(scale)
        self._bounds = bounds
        self.size = window
        """The most samples in the support set."""
        self._stride, self._novelty, self._held_out = stride, novelty, held_out
        numbers = len(self._center)
        self._support = _Ring(window, x, y, numbers)
        # held_out - 1 samples teach per sample that judges: with this size both rings reach equally far back
        self._judging = _Ring(max(1, window // (held_out - 1)), x, y, numbers) if held_out else None
        self.offered = self.entered = 0
        self.left_out: Counter[LeftOut] = Counter()
        """Samples that did not enter, by reason. Together with `entered` they make up `offered`."""

    @property
    def support(self) -> Samples:
        """The support set: the samples that the inner loop learns from, the oldest first."""
        return self._support.samples

    @property
    def held_out(self) -> Samples | None:
        """The held-out samples, which the inner loop does not see; None if there are none."""
        samples = self._judging.samples if self._judging else None
        return samples if samples and len(samples.x) else None

    def leave_out(self, why: LeftOut) -> None:
        """Count a sample that may not enter."""
        self.offered += 1
        self.left_out[why] += 1

    def clear(self) -> None:
        """Forget all samples. The counts stay."""
        self._support.clear()
        if self._judging:
            self._judging.clear()

    def keep_newest(self, count: int) -> None:
        """Forget all but the newest samples of the support set, and all that are held out. The counts stay."""
        self._support.keep_newest(count)
        if self._judging:
            self._judging.clear()

    def offer(self, x: NDArray, y: NDArray, inside: bool = False) -> bool:
        """Let one sample x `(*x)`, y `(*y)` in raw units enter, or count why it is left out.

        Args:
            x: The sample's x.
            y: The sample's y.
            inside: Whether y is known to be inside its bounds. Else it is compared with them.

        Returns:
            Whether it entered.
        """
        self.offered += 1
        if self.offered % self._stride:
            self.left_out[LeftOut.STRIDE] += 1
            return False
        values = x.reshape(-1) if self._labels else np.concatenate((x.reshape(-1), y.reshape(-1)))
        # float64, as center and scale are: in float32 the division could overflow for a value near its limit
        normalized = (values - self._center) / self._scale
        if (why := self._fault(values, normalized, y, inside)) is not None:
            self.left_out[why] += 1
            return False
        self.entered += 1
        judges = self._judging is not None and self.entered % self._held_out == 0
        (self._judging if judges and self._judging else self._support).add(x, y, normalized)
        return True

    def _fault(self, values: NDArray, normalized: NDArray, y: NDArray, inside: bool) -> LeftOut | None:
        """Return why a sample must not enter; None if it may."""
        far = not np.maximum.reduce(np.abs(normalized)) <= _OUTLIER  # also true for NaN
        if far and not all_finite(values):
            return LeftOut.NOT_FINITE
        if self._labels and not self._y.holds_classes(y):
            return LeftOut.NO_CLASS
        if far:
            return LeftOut.OUTLIER
        if not (inside or self._bounds.hold(y)):
            return LeftOut.OUTSIDE
        if self._novelty is not None:
            rings = [ring for ring in (self._support, self._judging) if ring]
            if any(ring.distance(normalized, y if self._labels else None) <= self._novelty for ring in rings):
                return LeftOut.NEAR
        return None


class _Ring:
    """A ring buffer of samples: when it is full, a new sample overwrites the oldest."""

    def __init__(self, capacity: int, x: SampleSpec, y: SampleSpec, size: int) -> None:
        self._x, self._y = np.zeros((capacity, *x.shape), x.dtype), np.zeros((capacity, *y.shape), y.dtype)
        self._normalized = np.zeros((capacity, size))
        self._held = self._next = 0

    @property
    def samples(self) -> Samples:
        self._sort()
        return Samples(self._x[: self._held], self._y[: self._held])

    def add(self, x: NDArray, y: NDArray, normalized: NDArray) -> None:
        self._x[self._next], self._y[self._next], self._normalized[self._next] = x, y, normalized
        self._next = (self._next + 1) % len(self._x)
        self._held = min(self._held + 1, len(self._x))

    def clear(self) -> None:
        self._held = self._next = 0

    def keep_newest(self, count: int) -> None:
        self._sort()
        for array in (self._x, self._y, self._normalized):
            array[:count] = array[self._held - count : self._held].copy()
        self._held, self._next = count, count % len(self._x)

    def _sort(self) -> None:
        """Put the oldest sample first."""
        if self._held == len(self._x) and self._next:
            for array in (self._x, self._y, self._normalized):
                array[...] = np.roll(array, -self._next, 0)
            self._next = 0

    def distance(self, normalized: NDArray, label: NDArray | None) -> float:
        """Root mean square distance to the nearest sample held; with labels, to the nearest with the same label."""
        squares = np.mean((self._normalized[: self._held] - normalized) ** 2, 1)
        if label is not None:
            squares = squares[self._y[: self._held] == label]
        return math.sqrt(squares.min(initial=math.inf))
