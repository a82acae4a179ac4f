"""The bounds of what a network gets: which fields are outside, and what is so far outside that it is no measurement.

A network answers for numbers between the bounds of its fields. Outside them it answers too, and nobody knows what.
"""

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from msr_runtime.arrays import FLOAT32
from msr_runtime.errors import InputError
from msr_runtime.inference.sample_spec import SampleSpec
from msr_runtime.task import SLACK, Field, Shape, field_slices

_FEW = 2**12
"""Most numbers of x that are compared with their bounds in one pass."""
_KEPT = 16
"""Shapes of samples whose memory is kept for it."""
_LARGEST = float(np.finfo(np.float32).max)

Counting = Callable[[Mapping[str, int]], None]
"""Takes the counts of some samples, for example `OutsideCounter.add`."""

Outside = dict[str, int]
"""Samples with a value outside the bounds of its field, by side and field, for example `{"x.goal": 3}`. A field with no
such sample is left out."""


class InputBounds:
    """The bounds of one side of a sample, x or y. It has no state, so several threads may share it.

    A value is outside if it is more than 5 % of the field's range (`high - low`) beyond its bound: sensors have noise,
    and a family's own samples may be as far outside. A field with an infinite bound has no such share, so only the
    other bound counts, as it is.
    """

    def __init__(self, side: str, fields: Sequence[Field], limit: float | None) -> None:
        """Take the bounds from `fields`.

        Args:
            side: `x` or `y`: it stands before the names of the fields.
            fields: The fields in order. Empty for labels, which have no bounds.
            limit: `Manifest.input_limit`.
        """
        self._side, self._fields, self._slices = side, fields, field_slices(fields)
        # float32, as samples are: numpy would convert every sample to float64 to compare it
        self.low, self.high = (
            np.array([b for f in fields for b in [bound(f)] * f.size], FLOAT32) for bound in (_low, _high)
        )
        self._limit = math.inf if limit is None else limit

    def hold(self, samples: NDArray) -> bool:
        """Return whether no value of the samples `(*shape)` or `(samples, *shape)` is outside. NaN is not outside."""
        if not self._fields:
            return True
        flat = samples.reshape(-1, len(self.low))
        # Nearly always it is so, and control loops wait for the answer. `any` would take several times as long.
        return not (np.count_nonzero(flat < self.low) or np.count_nonzero(flat > self.high))

    def outside(self, samples: NDArray) -> NDArray[np.bool_]:
        """Return which of the samples `(samples, *shape)` have a value outside, `(samples,)`."""
        if not self._fields:
            return np.zeros(len(samples), bool)
        flat = samples.reshape(-1, len(self.low))
        return np.any((flat < self.low) | (flat > self.high), axis=1)

    def absurd(self, samples: NDArray) -> NDArray[np.bool_]:
        """Return which of the samples `(samples, *shape)`, finite, `count` would refuse, `(samples,)`."""
        found = np.zeros(len(samples), bool)
        if self.hold(samples):
            return found
        flat = samples.reshape(-1, len(self.low))
        for field in self._fields:
            found |= (_beyond(field, flat[:, self._slices[field.name]]) > self._limit).any(1)
        return found

    def count(self, name: str, samples: NDArray, into: Counting | None = None) -> Outside:
        """Count the samples with a value outside, by field, and refuse what is absurd.

        Args:
            name: How errors name the samples, for example `support_x`.
            samples: `(samples, *shape)` in raw units, finite.
            into: Gets the counts as well, those of refused samples too.

        Raises:
            InputError: If a value is further outside than the limit, as a multiple of its field's range.
        """
        if self.hold(samples):
            return {}
        flat = samples.reshape(-1, len(self.low))
        outside = (flat < self.low) | (flat > self.high)
        found = {field: int(outside[:, self._slices[field.name]].any(1).sum()) for field in self._fields}
        counts = {f"{self._side}.{field.name}": number for field, number in found.items() if number}
        if into:
            into(counts)
        for field in self._fields:
            if found[field]:
                self._refuse_absurd(name, field, flat[:, self._slices[field.name]])
        return counts

    def _refuse_absurd(self, name: str, field: Field, values: NDArray) -> None:
        beyond = _beyond(field, values)
        sample, element = (int(index) for index in np.unravel_index(beyond.argmax(), beyond.shape))
        if beyond[sample, element] > self._limit:
            ranges, unit = beyond[sample, element], "" if field.unit == "1" else f" {field.unit}"
            pixels = len(field.shape) == 3 and (field.low, field.high) == (0, 1)
            hint = " (divide a camera's 0 to 255 by 255)" if pixels else ""
            raise InputError(
                f"{name} sample {sample}, field '{field.name}' element {element} is {values[sample, element]:g}{unit}, "
                f"but its bounds are {field.low:g} and {field.high:g}; it is {ranges:.3g} times their "
                f"distance outside, and the bundle's limit is {self._limit:g} (input_limit in its manifest). No "
                f"working sensor is that far off; likely cause: another unit{hint}, fields in another order, or a fault"
            )


class SampleBounds:
    """The bounds of both sides of a sample. Any thread may call it."""

    def __init__(self, x: InputBounds, y: InputBounds) -> None:
        self.x, self.y = x, y
        self._pools: Callable[..., list[_Look]] = lru_cache(_KEPT)(lambda *_: [])

    @classmethod
    def of(cls, inputs: Sequence[Field], outputs: Sequence[Field], limit: float | None) -> Self:
        """Take the bounds from the fields of x and of y; labels have none. `limit` is `Manifest.input_limit`."""
        return cls(InputBounds("x", inputs, limit), InputBounds("y", outputs, limit))

    def hold(self, x: NDArray, y: NDArray) -> bool:
        """Return whether a quick look finds every number finite and not outside. If not, look closer.

        Adaptations and updates wait for it. For a few samples, numpy takes most of the time to begin an operation, and
        more where it repeats the bounds for each sample. So all numbers are compared at once, each with its own bound.

        Args:
            x: One sample `(*x)`, or some `(samples, *x)`, in raw units.
            y: The same of y. If y are labels, or there are many numbers, the result is False.
        """
        if not self.y.low.size or x.size > _FEW:
            return False
        pool = self._pools(x.shape, y.shape)
        try:
            look = pool.pop()  # list.pop and list.append are atomic, so two threads never get the same memory
        except IndexError:
            look = _Look(self, x.shape, y.shape)
        look.x[...], look.y[...] = x, y
        numbers = look.numbers
        # NaN is neither. `all` would take several times as long.
        found = np.count_nonzero(numbers >= look.low) == np.count_nonzero(numbers <= look.high) == numbers.size
        pool.append(look)
        return bool(found)

    def count(
        self, specs: tuple[SampleSpec, SampleSpec], x: NDArray, y: NDArray, into: Counting | None = None
    ) -> Outside:
        """Count the samples with a value outside, as `InputBounds.count` does; `specs` name x and y in errors."""
        return self.x.count(specs[0].name, x, into) | self.y.count(specs[1].name, y, into)


class _Look:
    """Memory for the numbers of some samples, all of x and then all of y, beside the bounds of each."""

    def __init__(self, bounds: SampleBounds, x: Shape, y: Shape) -> None:
        of_x, of_y = math.prod(x), math.prod(y)
        self.numbers = np.empty(of_x + of_y, FLOAT32)
        self.x, self.y = self.numbers[:of_x].reshape(x), self.numbers[of_x:].reshape(y)
        repeats = of_x // bounds.x.low.size
        self.low, self.high = (
            np.concatenate([np.tile(side, repeats) for side in sides]).clip(-_LARGEST, _LARGEST)  # finite
            for sides in ((bounds.x.low, bounds.y.low), (bounds.x.high, bounds.y.high))
        )


class OutsideCounter:
    """Sums up counts of samples outside their bounds. Any thread may call it."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, outside: Mapping[str, int]) -> None:
        """Add the counts of some samples."""
        if outside:
            with self._lock:
                self._counts.update(outside)

    def total(self) -> Outside:
        """Return the sums so far."""
        with self._lock:
            return dict(self._counts)


def listed(outside: Mapping[str, int]) -> str:
    """Return the counts as text."""
    return ", ".join(f"{count} {name}" for name, count in outside.items())


def _low(field: Field) -> float:
    return _float32(field.low - _room(field), -math.inf)


def _high(field: Field) -> float:
    return _float32(field.high + _room(field), math.inf)


def _beyond(field: Field, values: NDArray) -> NDArray[np.float64]:
    """How far outside its bounds each value is, as a multiple of the field's range. 0 where that is infinite."""
    size = field.high - field.low
    if not math.isfinite(size):
        return np.zeros(values.shape)
    return np.maximum(field.low - values.astype(np.float64), values - np.float64(field.high)) / size


def _room(field: Field) -> float:
    size = field.high - field.low
    return SLACK * size if math.isfinite(size) else 0.0


def _float32(bound: float, away: float) -> float:
    """The bound as float32, which samples are, and never narrower."""
    with np.errstate(over="ignore"):  # numpy casts for the comparison too
        near = np.float32(bound)
        inside = near > bound if away < 0 else near < bound
    return float(np.nextafter(near, np.float32(away)) if inside else near)
