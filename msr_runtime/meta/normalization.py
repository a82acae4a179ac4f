"""Raw units to numbers near one and back, without breaking the family's symmetry."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from msr_runtime.task import Array, Field, Group, TaskFamily, field_slices

SAMPLES = 4096
"""How many augmented queries the figures are measured on."""


class Normalization(BaseModel):
    """Centre and scale of every input and output; part of the checkpoint, and constants in the exported graphs."""

    model_config = ConfigDict(frozen=True)

    input_center: tuple[float, ...]
    """`(x,)`, raw units."""
    input_scale: tuple[float, ...]
    """`(x,)`, raw units, above 0."""
    output_center: tuple[float, ...]
    """`(y,)`, raw units; zeros for labels."""
    output_scale: tuple[float, ...]
    """`(y,)`, raw units, above 0; ones for labels."""

    def normalize_x(self, x: NDArray) -> Array:
        """Raw x `(..., x)` to float32 near one."""
        return ((x - np.asarray(self.input_center)) / np.asarray(self.input_scale)).astype(np.float32)

    def normalize_y(self, y: NDArray) -> Array:
        """Raw y `(..., y)` to float32 near one."""
        return ((y - np.asarray(self.output_center)) / np.asarray(self.output_scale)).astype(np.float32)


def measure_normalization(family: TaskFamily, rng: np.random.Generator, group: Group | None) -> Normalization:
    """Measure the normalisation on augmented training queries.

    The scale is one number a field, and the centre is averaged over the group: both then commute with every element,
    so that a symmetric task is symmetric in normalised units too.
    """
    batch = family.sample(rng, 64, 1, SAMPLES // 64 * len(family.query_sets), "train")
    x, y = family.augment(rng, batch.query_x, batch.query_y)
    input_center, input_scale = _measure(x, family.inputs, None if group is None else group.inputs)
    if family.loss == "cross_entropy":
        classes = sum(field.size for field in family.outputs)
        output_center, output_scale = np.zeros(classes), np.ones(classes)
    else:
        output_center, output_scale = _measure(y, family.outputs, None if group is None else group.outputs)
    return Normalization(
        input_center=tuple(input_center.tolist()),
        input_scale=tuple(input_scale.tolist()),
        output_center=tuple(output_center.tolist()),
        output_scale=tuple(output_scale.tolist()),
    )


def _measure(
    samples: NDArray, fields: Sequence[Field], matrices: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    flat = samples.reshape(-1, samples.shape[-1]).astype(np.float64)
    center = flat.mean(0)
    if matrices is not None:
        center = matrices.mean(0) @ center
        center[np.abs(center) < 1e-12] = 0.0
    scale = np.ones_like(center)
    for part in field_slices(fields).values():
        spread = float(np.sqrt(np.mean((flat[:, part] - center[part]) ** 2)))
        scale[part] = spread if spread > 1e-8 else 1.0
    return center, scale
