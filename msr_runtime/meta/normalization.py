"""Raw units to numbers near one and back, without breaking the family's symmetry."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from msr_runtime.task import Array, Field, Figures, Group, Shape, TaskFamily, field_slices, sample_shape

TASKS, SAMPLES, NUMBERS = 64, 64, 2**22
"""On how many tasks the figures are measured, on how many augmented queries of each query set of each, and how many
numbers those may make together: of large images there are fewer."""
STANDARD_ERRORS = 3.0
"""A centre that is fewer of them from zero is taken for zero: what is left of noise would be a bias, and a network
without one could then not be the linear map that its task is."""


class Normalization(BaseModel):
    """Centre and scale of every input and output; part of the checkpoint, and constants in the exported graphs.

    An image has one of each a channel, so that it can be turned or shifted before or after.
    """

    model_config = ConfigDict(frozen=True)

    input_center: Figures
    """Of x, raw units."""
    input_scale: Figures
    """Of x, raw units, above 0."""
    output_center: Figures
    """Of y, raw units; zeros for labels, one a class."""
    output_scale: Figures
    """Of y, raw units, above 0; ones for labels."""

    def normalize(self, x: NDArray, y: NDArray) -> tuple[Array, NDArray]:
        """Raw samples, or the samples of several tasks, x `(..., *x)` and y `(..., *y)`, as a learner takes them."""
        return self.normalize_x(x), self.normalize_y(y)

    def normalize_x(self, x: NDArray) -> Array:
        """Raw x `(..., *x)` to float32 near one."""
        return ((x - np.asarray(self.input_center)) / np.asarray(self.input_scale)).astype(np.float32)

    def normalize_y(self, y: NDArray) -> NDArray:
        """Raw y `(..., *y)` to float32 near one; labels, which are integers, pass as they are."""
        if y.dtype.kind in "iu":
            return y
        return ((y - np.asarray(self.output_center)) / np.asarray(self.output_scale)).astype(np.float32)

    def raw_x(self, x: NDArray) -> Array:
        """What `normalize_x` makes x `(..., *x)` of, float32."""
        return (x * np.asarray(self.input_scale) + np.asarray(self.input_center)).astype(np.float32)

    def raw_y(self, y: NDArray) -> Array:
        """What `normalize_y` makes y `(..., *y)` of, float32."""
        return (y * np.asarray(self.output_scale) + np.asarray(self.output_center)).astype(np.float32)


def measure_normalization(family: TaskFamily, rng: np.random.Generator, group: Group | None) -> Normalization:
    """Measure the normalisation on augmented training queries.

    The scale is one number a field, or a channel of an image, and what is measured is averaged over the group: both
    then commute with every element, so that a symmetric task is symmetric in normalised units too. Of an image's group
    that holds where it moves pixels and channels to one another, and not for channels that it mixes at other angles.
    """
    size = math.prod(sample_shape(family.inputs)) + math.prod(sample_shape(family.outputs))
    queries = min(SAMPLES, max(1, NUMBERS // (TASKS * size * len(family.query_sets))))
    batch = family.sample(rng, TASKS, 1, queries * len(family.query_sets), "train")
    x, y = family.augment(rng, batch.query_x, batch.query_y)
    input_center, input_scale = _measure(x, family.inputs, None if group is None else group.inputs)
    if family.loss == "cross_entropy":
        classes = sum(field.size for field in family.outputs)
        output_center, output_scale = np.zeros(classes), np.ones(classes)
    else:
        output_center, output_scale = _measure(y, family.outputs, None if group is None else group.outputs)
    figures = (input_center, input_scale, output_center, output_scale)
    return Normalization.model_validate(
        {name: array.tolist() for name, array in zip(Normalization.model_fields, figures, strict=True)}
    )


def _measure(
    samples: NDArray, fields: Sequence[Field], matrices: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    shape = sample_shape(fields)
    flat = samples.reshape(-1, math.prod(shape)).astype(np.float64)
    center = flat.mean(0)
    if matrices is not None:
        center = matrices.mean(0) @ center
        center[np.abs(center) < 1e-12] = 0.0
    if len(shape) > 1:
        return _by_channel(flat, center, shape, matrices)
    scale = np.ones_like(center)
    for part in field_slices(fields).values():
        scale[part] = _spread(np.mean((flat[:, part] - center[part]) ** 2))
        center[part] *= _is_sure(math.sqrt(np.mean(center[part] ** 2)), scale[part], len(flat))
    return center, scale


def _by_channel(
    flat: NDArray[np.float64], center: NDArray[np.float64], shape: Shape, matrices: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    center = np.repeat(center.reshape(shape[0], -1).mean(1), math.prod(shape[1:]))
    squares = np.mean((flat - center) ** 2, 0)
    if matrices is not None:
        squares = np.mean(matrices**2, 0) @ squares
    ones = (shape[0], *[1] * (len(shape) - 1))
    spreads = [_spread(mean) for mean in squares.reshape(shape[0], -1).mean(1)]
    center, scale = center.reshape(shape[0], -1)[:, 0].reshape(ones), np.reshape(spreads, ones)
    return center * _is_sure(np.abs(center), scale, len(flat)), scale


def _is_sure(distance: float | NDArray[np.float64], scale: NDArray[np.float64], samples: int) -> NDArray[np.bool_]:
    return distance > STANDARD_ERRORS * scale / math.sqrt(samples)


def _spread(mean_square: float) -> float:
    spread = math.sqrt(mean_square)
    return spread if spread > 1e-8 else 1.0
