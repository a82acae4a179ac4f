"""Measure center and scale of inputs and outputs on training tasks, without breaking the family's symmetry."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from msr_runtime.families import EpisodicFamily, SharedScaleFamily
from msr_runtime.meta.training.augmentation import augments
from msr_runtime.meta.training.drawing import draw_tasks
from msr_runtime.normalization import FARTHEST, FLOAT32_STEP, Normalization, number_names
from msr_runtime.task import Field, Group, Shape, TaskFamily, as_matrices, field_slices, output_shape, sample_shape

TASKS, SAMPLES, NUMBERS = 64, 64, 2**22
"""The center and the scale are measured on `TASKS` tasks, with up to `SAMPLES` augmented queries per query set of each
task. All these queries hold at most `NUMBERS` numbers in total; large images therefore use fewer queries."""
STANDARD_ERRORS = 3.0
"""A measured center closer to zero than this many standard errors counts as zero. It would be left-over noise, and
would act as a bias: a network without a bias could then not represent a linear task."""
NEARLY = FLOAT32_STEP / 2
"""A number that varies by this share of its field's range or less is named: a sensor may stand still."""

UNBOUNDED = 1e30
"""A range from here on is no range of a sensor: its bounds are infinite, or those of float32."""

Floats = NDArray[np.float64]


class Measured(NamedTuple):
    """The result of `measure_normalization`."""

    normalization: Normalization
    """Center and scale of every number."""
    constant: tuple[str, ...]
    """The numbers that do not change, or hardly: each by its name, its center and its spread, such as
    `x field 'load' (2.5 ± 0 kg)`."""


class _Side(NamedTuple):
    """What was measured of x or of y. The arrays are `(n,)`, or `(channels, 1, 1)` for an image."""

    center: Floats
    scale: Floats
    constant: tuple[str, ...]


def raw_units(family: TaskFamily) -> Normalization:
    """Return the normalization that changes nothing: center 0 and scale 1 everywhere."""
    return Normalization.identity(sample_shape(family.inputs), output_shape(family.outputs, family.loss))


def measure_normalization(family: TaskFamily, rng: np.random.Generator, group: Group | None) -> Measured:
    """Measure center and scale on augmented training queries.

    Each number of a sample gets a scale of its own, unless a symmetry ties it to others: a symmetric task must stay
    symmetric in normalized units, so normalizing must commute with every group element. Therefore numbers that the
    group mixes share one scale, and the center is averaged over the group. If the family augments and gives no
    matrices, or is a `SharedScaleFamily`, then all numbers of a field share one scale.

    An image has one center and one scale per channel. For images this holds if the group moves pixels and channels to
    one another; it does not hold for a group that mixes channels by other angles.

    A number is constant if it changes by no more than the rounding of float32: at its own size or, in a field with a
    unit, at the size by which the field's other numbers change. Or by no more than the rounding at its field's range,
    if it is too far from zero besides. Its scale is that size, or 1 if it is zero.

    Args:
        family: The family. Tasks of its split `train` are drawn.
        rng: Source of every random draw.
        group: The family's group, or None if it has none as matrices.

    Returns:
        The normalization, and the names of the constant numbers. Labels (loss `cross_entropy`) get center 0 and scale 1
        per class.
    """
    size = math.prod(sample_shape(family.inputs)) + math.prod(sample_shape(family.outputs))
    if isinstance(family, EpisodicFamily):
        size *= family.ways
    queries = min(SAMPLES, max(1, NUMBERS // (TASKS * size * len(family.query_sets))))
    batch = draw_tasks(family, rng, TASKS, 1, queries * len(family.query_sets), "train")
    x, y = family.augment(rng, batch.query_x, batch.query_y)
    by_field = group is None and (_shares(family) or augments(family))
    inputs = _measure("x", x, family.inputs, None if group is None else group.inputs, by_field)
    if family.loss == "cross_entropy":
        classes = sum(field.size for field in family.outputs)
        outputs = _Side(np.zeros(classes), np.ones(classes), ())
    else:
        outputs = _measure("y", y, family.outputs, None if group is None else group.outputs, by_field)
    figures = (inputs.center, inputs.scale, outputs.center, outputs.scale)
    normalization = Normalization.model_validate(
        {name: array.tolist() for name, array in zip(Normalization.model_fields, figures, strict=True)}
    )
    return Measured(normalization, inputs.constant + outputs.constant)


def _shares(family: TaskFamily) -> bool:
    return isinstance(family, SharedScaleFamily) and family.shared_scale


def _measure(side: str, samples: NDArray, fields: Sequence[Field], elements: NDArray | None, by_field: bool) -> _Side:
    shape = sample_shape(fields)
    # float64: in float32, the mean of millions of samples has rounding errors that would pass for a center
    flat = samples.reshape(-1, math.prod(shape)).astype(np.float64)
    center = flat.mean(0)
    still = _Still.of(flat, center, fields)
    constant = still.names(side, flat, center, fields)
    if elements is not None:
        # The mean over all elements projects onto the vectors that no element moves. Rounding leaves tiny numbers.
        center = center[elements].mean(0) if elements.ndim == 2 else elements.mean(0) @ center
        center[np.abs(center) < 1e-12 * np.sqrt(np.mean(flat**2, 0))] = 0.0
    if len(shape) > 1:
        return _Side(*_by_channel(flat, center, still, shape, elements), constant)
    scale = np.ones_like(center)
    for part in _tied(fields, None if elements is None else as_matrices(elements), by_field):
        own = np.ascontiguousarray(flat[:, part])
        spread = math.sqrt(np.mean((own - center[part]) ** 2))
        scale[part] = _scale(spread, still.size[part].max(), still.limit[part].max())
        center[part] *= _is_sure(math.sqrt(np.mean(center[part] ** 2)), spread, len(flat))
    return _Side(center, scale, constant)


class _Still(NamedTuple):
    """What counts as standing still. The arrays are `(n,)`, one entry per number, in its unit."""

    size: Floats
    """How large the number is, or how far others of its field move, if these are larger."""
    limit: Floats
    """The largest spread of a constant."""
    named: Floats
    """The largest spread with which a number is named: it hardly changes."""

    @classmethod
    def of(cls, flat: Floats, means: Floats, fields: Sequence[Field]) -> Self:
        size, moves, start = np.abs(flat).max(0), np.abs(flat - means).max(0), 0
        hardly = np.zeros_like(size)
        for field in fields:
            part = slice(start, start + field.size)
            if _has_one_unit(field):
                size[part] = np.maximum(size[part], moves[part].max())
                span = field.high - field.low
                hardly[part] = NEARLY * span if span < UNBOUNDED else 0.0
            start += field.size
        # Relative to a size, and not absolute: units may be farads or kelvins. Bounds alone say little: they may be far
        # wider than what the sensor sees.
        limit = np.maximum(FLOAT32_STEP * size, np.minimum(hardly, size / FARTHEST))
        limit = np.maximum(limit, np.finfo(np.float32).tiny)
        return cls(size, limit, np.maximum(limit, hardly))

    def names(self, side: str, flat: Floats, means: Floats, fields: Sequence[Field]) -> tuple[str, ...]:
        """Name the numbers that hardly change, and the channels of an image of which no pixel does more."""
        names = list(number_names(fields))
        spreads = np.sqrt(np.mean((flat - means) ** 2, 0))
        found = (spreads <= self.named).reshape(len(names), -1).all(1)
        spreads, values = spreads.reshape(len(names), -1).max(1), means.reshape(len(names), -1).mean(1)
        return tuple(
            f"{side} {name} ({value:.6g} ± {spread:.2g}{unit})"
            for (name, unit), value, spread, still in zip(names, values, spreads, found, strict=True)
            if still
        )


def _has_one_unit(field: Field) -> bool:
    # Recorded numbers that nobody described are one field without a unit: farads may lie beside pascals there.
    return field.size == 1 or field.unit != "1"


def _tied(fields: Sequence[Field], matrices: Floats | None, by_field: bool) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of numbers that share one scale."""
    if by_field:
        yield from (np.arange(part.start, part.stop) for part in field_slices(fields).values())
    elif matrices is None:
        yield from np.arange(sum(field.size for field in fields))[:, None]
    else:
        mixed = np.asarray(
            (np.abs(matrices) > 1e-9).any(0)
        )  # not symmetric element by element, but a group holds the inverses
        left = set(range(len(mixed)))
        while left:
            part, wider = set(), {min(left)}
            while wider != part:
                part, wider = wider, set(np.flatnonzero(mixed[sorted(wider)].any(0)).tolist())
            yield np.array(sorted(part))
            left -= part


def _by_channel(
    flat: Floats, center: Floats, still: _Still, shape: Shape, elements: NDArray | None
) -> tuple[Floats, Floats]:
    center = np.repeat(center.reshape(shape[0], -1).mean(1), math.prod(shape[1:]))
    squares = np.mean((flat - center) ** 2, 0)
    if elements is not None:
        squares = squares[elements].mean(0) if elements.ndim == 2 else np.mean(elements**2, 0) @ squares
    ones = (shape[0], *[1] * (len(shape) - 1))
    spreads = np.sqrt(squares.reshape(shape[0], -1).mean(1))
    sizes, limits = (numbers.reshape(shape[0], -1).max(1) for numbers in (still.size, still.limit))
    scale = np.reshape([_scale(*each) for each in zip(spreads, sizes, limits, strict=True)], ones)
    center = center.reshape(shape[0], -1)[:, 0].reshape(ones)
    return center * _is_sure(np.abs(center), spreads.reshape(ones), len(flat)), scale


def _is_sure(distance: float | Floats, spread: float | Floats, samples: int) -> bool | NDArray[np.bool_]:
    # whether a center this far from zero is more than noise
    return distance > STANDARD_ERRORS * spread / math.sqrt(samples)


def _scale(spread: float, size: float, limit: float) -> float:
    # A constant cannot be divided by its spread. In units of its own size, a small drift on the robot stays small.
    return spread if spread > limit else size or 1.0
