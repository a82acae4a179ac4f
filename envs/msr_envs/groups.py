"""Finite groups acting on the fields of a network's input and output.

A representation here is an array `(order, n, n)` of orthogonal float64 matrices, identity first. Small ones are put
together by `direct_sum` in the order of the fields, and two sums make a `Group`.
"""

import numpy as np
from numpy.typing import NDArray

from msr_runtime.task import Group

Representation = NDArray[np.float64]


def rotation(order: int) -> Representation:
    """The plane rotated by multiples of `2 pi / order`: `(order, 2, 2)`."""
    angle = 2 * np.pi * np.arange(order) / order
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def shift(order: int) -> Representation:
    """The regular representation, `(order, order, order)`: element i moves entry j to entry i + j, cyclically.

    This is what a turn does to sensors or actuators set evenly round a robot, numbered counter-clockwise.
    """
    index = np.arange(order)
    matrices = np.zeros((order, order, order))
    for element in range(order):
        matrices[element, (index + element) % order, index] = 1.0
    return matrices


def trivial(order: int, size: int) -> Representation:
    """`size` numbers that no element changes: `(order, size, size)`."""
    return np.broadcast_to(np.eye(size), (order, size, size)).copy()


def direct_sum(*parts: Representation) -> Representation:
    """Blocks along the diagonal, in the order of the fields: `(order, sum of n, sum of n)`."""
    order, size = len(parts[0]), sum(part.shape[-1] for part in parts)
    matrices, start = np.zeros((order, size, size)), 0
    for part in parts:
        stop = start + part.shape[-1]
        matrices[:, start:stop, start:stop] = part
        start = stop
    return matrices


def random_action(group: Group, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Apply one random element an example to x `(..., x)` and y `(..., y)` together; dtypes are kept."""
    element = rng.integers(group.order, size=x.shape[:-1])
    turned_x = np.einsum("...ij,...j->...i", group.inputs.astype(x.dtype)[element], x)
    turned_y = np.einsum("...ij,...j->...i", group.outputs.astype(y.dtype)[element], y)
    return turned_x, turned_y
