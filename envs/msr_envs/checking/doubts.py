"""What is odd in the samples of a family, and may still be meant: `check_family` warns of it."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from msr_runtime.task import Field, TaskBatch, TaskFamily, field_slices

LEAST_USED = 0.01
"""A field that uses a smaller share of its declared range is probably in another unit."""
MOST_REPEATED = 0.25
"""Queries repeat the support set if a larger share of them are samples of it."""


def doubts(family: TaskFamily, batches: Sequence[TaskBatch]) -> Iterator[str]:
    """Yield a sentence for each thing that is odd.

    Args:
        family: The family.
        batches: Batches of the right shapes and types.

    """
    sides = [(family.inputs, ("support_x", "query_x"))]
    # asked for by name, because the class itself needs Gymnasium, and a robot that checks its logs has none
    if family.loss != "cross_entropy" and not getattr(family, "derives_outputs", False):
        sides.append((family.outputs, ("support_y", "query_y")))
    for fields, parts in sides:
        arrays = [getattr(batch, part) for batch in batches for part in parts]
        yield from _unused_ranges(fields, np.concatenate([a.reshape(-1, math.prod(a.shape[2:])) for a in arrays]))
    repeated = [share for batch in batches for share in _repeated(batch)]
    if repeated and np.mean(repeated) > MOST_REPEATED:
        yield (
            f"{100 * np.mean(repeated):.0f} % of the queries of a task are samples of its support set, x and y alike, "
            "but queries must be others: the network would be scored on what it was given. The likely cause is that "
            "both are cut from the same rows: draw shots + queries rows, and divide them"
        )


def _unused_ranges(fields: Sequence[Field], rows: NDArray) -> Iterator[str]:
    for field in fields:
        values = rows[:, field_slices(fields)[field.name]]
        low, high, declared = float(values.min()), float(values.max()), field.high - field.low
        if math.isfinite(declared) and 0 < high - low < LEAST_USED * declared:
            yield (
                f"field '{field.name}' holds values from {low:.3g} to {high:.3g} {field.unit}, which is "
                f"{100 * (high - low) / declared:.2g} % of its declared range, {field.low:g} to {field.high:g}; the "
                "likely cause is another unit, such as mm in place of m, or bounds that are much too wide: a robot "
                "would not refuse a wrong value then"
            )


def _repeated(batch: TaskBatch) -> Iterator[float]:
    """Yield the share of the queries that are samples of the support set, for each task whose samples tell apart."""
    for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
        known = [x.tobytes() + y.tobytes() for x, y in zip(support_x, support_y, strict=True)]
        distinct = set(known)
        if len(distinct) > 0.9 * len(known):
            asked = [x.tobytes() + y.tobytes() for x, y in zip(query_x, query_y, strict=True)]
            yield sum(row in distinct for row in asked) / len(asked)
