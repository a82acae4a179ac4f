"""Round the constants of a learner: U, and the layers that do not adapt.

Rounding comes before anything is traced. Every rounded number is a float32 number that a smaller type holds exactly:

    float16   the nearest float16 number
    int8      s q, with an integer q from -127 to 127 and one scale s for each row of U

The graphs are traced in float32, as ever. `compact` then stores what the smaller type holds exactly, and finds q and s
again: s has so few digits that every s q is exact in float32, and the largest q of each row is 127 or -127.

v, rates and dampings stay float32: the inner loop moves v by less than float16 can tell. So do the fixed bases of the
form `equivariant`, whose rounding would break the symmetry, and vectors, which are small.
"""

import copy

import numpy as np
import torch
from torch import Tensor

from msr_runtime.bundle.rounding import LARGEST, Precision, multiples
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.symmetry.forms import Symmetry
from msr_runtime.task import Array

_LEAST_DIGITS = 0xFF
"""The bits of a float32 that a scale does not use. It keeps 16 binary digits; times 7 of q, that is less than 24."""
_RELATIVE = 2.0**-11
"""Largest relative error of a number that is rounded to float16, unless it is too large or too small for it."""


def rounded(learner: Learner, precision: Precision) -> tuple[Learner, tuple[str, ...]]:
    """Return a copy of a learner with rounded constants, and the names of those that stay float32.

    A tensor stays float32 if one of its numbers is too large, or if so many are too small that the tensor as a whole is
    further off than by float16's own rounding.

    Args:
        learner: A learner, float32, on the CPU. It is not changed.
        precision: To what.

    """
    learner, kept = copy.deepcopy(learner), []
    for name, parameter in constants(learner).items():
        values = parameter.detach().numpy()
        near = round_rows(values) if precision == "int8" and name in _symmetries(learner) else round_half(values)
        if near is None:
            kept.append(name)
            continue
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(near))
    return learner, tuple(kept)


def constants(learner: Learner) -> dict[str, Tensor]:
    """The parameters that rounding concerns, by their names in the network: matrices and filters that do not adapt."""
    adapted = set(learner.adapted_names)
    return {
        name: parameter
        for name, parameter in learner.network.named_parameters()
        if name not in adapted and parameter.ndim > 1
    }


def row_lengths(learner: Learner) -> set[int]:
    """How many numbers the rows of U have that share a scale."""
    return {constants(learner)[name].shape[-1] for name in _symmetries(learner)}


def round_half(values: Array) -> Array | None:
    """Round to float16, as float32. None if the result is not near."""
    with np.errstate(over="ignore"):
        near = values.astype(np.float16).astype(np.float32)
    if not np.isfinite(near).all():
        return None
    size, error = (np.linalg.norm(each.astype(np.float64)) for each in (values, near - values))
    return near if error <= _RELATIVE * size else None


def round_rows(values: Array) -> Array | None:
    """Round rows `(..., length)` to multiples of a scale for each row. None if a row is too large or too small."""
    largest = np.abs(values).max(-1, keepdims=True)
    with np.errstate(over="ignore"):
        # Rounded upwards, so that no q is larger than 127.
        bits = (largest / np.float32(LARGEST)).astype(np.float32).view(np.uint32)
        scales = ((bits + _LEAST_DIGITS) & ~np.uint32(_LEAST_DIGITS)).view(np.float32)
        near = multiples(values, scales) * scales
    tiny = (largest > 0) & (scales < np.finfo(np.float32).tiny)
    return near if np.isfinite(near).all() and not tiny.any() else None


def _symmetries(learner: Learner) -> set[str]:
    """The names of U and of the factors that U is made of, among the constants."""
    own = {id(part) for layer in learner.modules() if isinstance(layer, Symmetry) for part in layer.parameters()}
    return {name for name, parameter in constants(learner).items() if id(parameter) in own}
