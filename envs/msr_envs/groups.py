"""Finite groups as matrices on the fields of a network's input and output.

A representation gives each element of a group a matrix. Here it is an array `(order, n, n)` of orthogonal float64
matrices, the identity first. `direct_sum` joins the representations of single fields, in the order of the fields, into
one representation of the whole vector. Two such sums, one for the input and one for the output, make a `Group`.
"""

import numpy as np
from numpy.typing import NDArray

from msr_runtime.task import Group

Representation = NDArray[np.float64]
"""`(order, n, n)`: one orthogonal matrix per group element."""


def rotation(order: int) -> Representation:
    """Return `(order, 2, 2)`: element i turns a vector in the plane counter-clockwise by `i * 2 pi / order`."""
    angle = 2 * np.pi * np.arange(order) / order
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def shift(order: int) -> Representation:
    """Return `(order, order, order)`: element i moves entry j to entry i + j, cyclically.

    A turn of a robot does this to sensors or actuators that are set evenly around it and numbered counter-clockwise.
    It is called the regular representation.
    """
    index = np.arange(order)
    matrices = np.zeros((order, order, order))
    for element in range(order):
        matrices[element, (index + element) % order, index] = 1.0
    return matrices


def trivial(order: int, size: int) -> Representation:
    """Return `(order, size, size)`: no element changes these `size` numbers."""
    return np.broadcast_to(np.eye(size), (order, size, size)).copy()


def direct_sum(*parts: Representation) -> Representation:
    """Return `(order, sum of n, sum of n)`: the representations as blocks along the diagonal, in the given order."""
    order, size = len(parts[0]), sum(part.shape[-1] for part in parts)
    matrices, start = np.zeros((order, size, size)), 0
    for part in parts:
        stop = start + part.shape[-1]
        matrices[:, start:stop, start:stop] = part
        start = stop
    return matrices


def random_action(group: Group, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Move each sample, x `(..., x)` and its y `(..., y)` together, by a random group element of its own.

    Returns:
        x and y with the same shapes and dtypes.

    """
    element = rng.integers(group.order, size=x.shape[:-1])
    turned_x = np.einsum("...ij,...j->...i", group.inputs.astype(x.dtype)[element], x)
    turned_y = np.einsum("...ij,...j->...i", group.outputs.astype(y.dtype)[element], y)
    return turned_x, turned_y
