"""Kernel ridge regression: it learns a task from few samples without a network, to test a family before training."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from msr_runtime.task import Field, TaskFamily, field_slices, width

Floats = NDArray[np.float64]

BANDWIDTHS = (1.0, 3.0)
RIDGES = (1e-6, 1e-4, 1e-2)
_BUMPS = np.linspace(-2.0, 2.0, 7)


def scaled(fields: Sequence[Field], x: NDArray) -> Floats:
    """Return x `(tasks, samples, *x)` as vectors, each field divided by its root mean square.

    One number per field: a group that acts within the fields does not change it.
    """
    features = x.reshape(*x.shape[:2], -1).astype(np.float64)
    for part in field_slices(fields).values():
        features[..., part] /= np.sqrt(np.mean(features[..., part] ** 2)) + 1e-12
    return features


def targets(family: TaskFamily, y: NDArray) -> Floats:
    """Return y `(tasks, samples, *y)` as vectors. A label becomes a one at its class and zeros elsewhere."""
    if family.loss == "cross_entropy":
        return np.eye(width(family.outputs))[y.reshape(*y.shape[:2])]
    return y.reshape(*y.shape[:2], -1).astype(np.float64)


def residuals(x: Floats, y: Floats, asked: Floats, wanted: Floats) -> list[Floats]:
    """Return predicted minus wanted `(asked, y)`, for each bandwidth and, within it, for each ridge.

    Args:
        x: Samples to learn from, `(samples, x)`.
        y: What belongs to them, `(samples, y)`.
        asked: Other samples, `(asked, x)`.
        wanted: What belongs to those, `(asked, y)`.

    """
    # A robot's response is largely a sum of a linear part and of curves in single inputs (thrusters, beams). The kernel
    # has these parts beside a general (Gaussian) one, and so learns a task from few samples.
    curves, asked_curves = _curves(x), _curves(asked)
    size = x.shape[1]
    additive, asked_additive = curves @ curves.T / size, asked_curves @ curves.T / size
    square, asked_square = _square_distances(x, x) / size, _square_distances(asked, x) / size
    found = []
    for bandwidth in BANDWIDTHS:
        kernel = additive + np.exp(-square / (2 * bandwidth**2))
        asked_kernel = asked_additive + np.exp(-asked_square / (2 * bandwidth**2))
        for ridge in RIDGES:
            weights = np.linalg.solve(kernel + ridge * np.eye(len(x)), y)
            found.append(asked_kernel @ weights - wanted)
    return found


def _curves(x: Floats) -> Floats:
    bumps = np.exp(-((x[..., None] - _BUMPS) ** 2) / 0.5)
    return np.concatenate([x, bumps.reshape(len(x), -1)], 1)


def _square_distances(a: Floats, b: Floats) -> Floats:
    # rounding can make the distance of equal points slightly negative
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0.0)
