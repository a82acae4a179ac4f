"""The samples that an online adaptation learns from, and those that judge it: what enters, and what is left out."""

import math
from collections import Counter
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.manifest import Normalisation
from msr_runtime.session import Side, all_finite

_OUTLIER = 1000.0
"""Scales of meta-training from its centre: no sensor is that far off, and one such sample outweighs all others."""


class Left(StrEnum):
    """Why a sample did not enter."""

    STRIDE = "stride"
    NOT_FINITE = "not finite"
    NO_CLASS = "label of no class"
    OUTLIER = "outlier"
    NEAR = "near another"


class Samples(NamedTuple):
    """x `(samples, *x)` and y `(samples, *y)` in raw units; views, to be read before the next sample enters."""

    x: NDArray
    y: NDArray


class SampleWindow:
    """The latest samples, teachers and judges apart. For one thread.

    Of the samples that enter, every `held_out`-th judges, so that both kinds come from the same stretch of time.
    """

    def __init__(
        self,
        sides: tuple[Side, Side],
        normalisation: Normalisation,
        window: int,
        stride: int,
        novelty: float | None,
        held_out: int,
    ) -> None:
        """`OnlineAdapter` says what the arguments mean and checks them."""
        x, y = sides
        self._y, self._labels = y, y.dtype.kind != "f"
        center = [np.broadcast_to(normalisation.input_center, x.shape).reshape(-1)]
        scale = [np.broadcast_to(normalisation.input_scale, x.shape).reshape(-1)]
        if not self._labels:
            center.append(np.broadcast_to(normalisation.output_center, y.shape).reshape(-1))
            scale.append(np.broadcast_to(normalisation.output_scale, y.shape).reshape(-1))
        self._center, self._scale = np.concatenate(center), np.concatenate(scale)
        self._stride, self._novelty, self._held_out = stride, novelty, held_out
        size = len(self._center)
        self._teachers = _Ring(window, x, y, size)
        self._judges = _Ring(max(1, window // (held_out - 1)), x, y, size) if held_out else None
        self.offered = self.entered = 0
        self.left: Counter[Left] = Counter()
        """Samples that did not enter, by reason: with those that did, all that were offered."""

    @property
    def teachers(self) -> Samples:
        """What the inner loop sees."""
        return self._teachers.samples

    @property
    def judges(self) -> Samples | None:
        """What it does not see; None if there is none."""
        samples = self._judges.samples if self._judges else None
        return samples if samples and len(samples.x) else None

    def offer(self, x: NDArray, y: NDArray) -> None:
        """Let one sample x `(*x)`, y `(*y)` enter, unless something speaks against it."""
        self.offered += 1
        if self.offered % self._stride:
            self.left[Left.STRIDE] += 1
            return
        if not (all_finite(x.reshape(-1)) and (self._labels or all_finite(y.reshape(-1)))):
            self.left[Left.NOT_FINITE] += 1
            return
        if self._labels and not self._y.holds_classes(y):
            self.left[Left.NO_CLASS] += 1
            return
        numbers = x.reshape(-1) if self._labels else np.concatenate((x.reshape(-1), y.reshape(-1)))
        place = (numbers - self._center) / self._scale
        if np.abs(place).max() > _OUTLIER:
            self.left[Left.OUTLIER] += 1
            return
        rings = [ring for ring in (self._teachers, self._judges) if ring]
        if self._novelty is not None and any(
            ring.distance(place, y if self._labels else None) <= self._novelty for ring in rings
        ):
            self.left[Left.NEAR] += 1
            return
        self.entered += 1
        judges = self._judges is not None and self.entered % self._held_out == 0
        (self._judges if judges and self._judges else self._teachers).add(x, y, place)


class _Ring:
    """A fixed number of samples; the oldest gives way."""

    def __init__(self, capacity: int, x: Side, y: Side, size: int) -> None:
        self._x, self._y = np.zeros((capacity, *x.shape), x.dtype), np.zeros((capacity, *y.shape), y.dtype)
        self._places = np.zeros((capacity, size))
        self._held = self._next = 0

    @property
    def samples(self) -> Samples:
        return Samples(self._x[: self._held], self._y[: self._held])

    def add(self, x: NDArray, y: NDArray, place: NDArray) -> None:
        self._x[self._next], self._y[self._next], self._places[self._next] = x, y, place
        self._next = (self._next + 1) % len(self._x)
        self._held = min(self._held + 1, len(self._x))

    def distance(self, place: NDArray, label: NDArray | None) -> float:
        """Root mean square distance to the nearest sample held, with the same label if there are labels."""
        squares = np.mean((self._places[: self._held] - place) ** 2, 1)
        if label is not None:
            squares = squares[self._y[: self._held] == label]
        return math.sqrt(squares.min(initial=math.inf))
