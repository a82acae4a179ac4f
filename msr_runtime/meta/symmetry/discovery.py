"""Find the group of a family that augments, but does not give its group as matrices.

`augment` is asked what it does to each single number of x and y. It draws its elements from `rng` alone, so that equal
generators give equal elements: the same element of each sample is seen on every number, and its matrix can be read off,
column by column. The matrices that occur, and their products, are the group.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from msr_runtime.families import rows_per_sample
from msr_runtime.task import Field, Group, TaskFamily, sample_shape, width

LARGEST, MOST = 128, 64
"""The widest x or y that is looked at, and the most elements of a group that is found."""

_SAMPLES = 1024  # so many elements are drawn: each of 64 is missed by chance once in 10^7
_LINEAR = 1e-4  # largest relative difference between an augmented sample and the matrix times the sample
_SAME = 1e-3  # largest difference between two matrices that are one element
_ZERO = 1e-6  # float32 knows a cosine that closely

Maps = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Matrices on x and on y, `(count, x, x)` and `(count, y, y)`."""


def find_group(family: TaskFamily) -> Group | None:
    """Find the group by which `family.augment` moves samples.

    Args:
        family: The family. No task of it is drawn.

    Returns:
        The group, its matrices exact up to rounding in float64. None if `augment` changes nothing; if it does anything
        else than to multiply by orthogonal matrices drawn from `rng`; if there are more than 64 of them, as with turns
        by any angle; or if x or y holds more than 128 numbers.

    Example:
        >>> from types import SimpleNamespace
        >>> from msr_envs import load_family
        >>> from msr_runtime.meta.symmetry import find_group
        >>> family = load_family("hex-drive")
        >>> members = ("name", "inputs", "outputs", "loss", "query_sets", "sample", "augment")
        >>> bare = SimpleNamespace(**{name: getattr(family, name) for name in members})  # without group()
        >>> find_group(bare).name
        'C6'

    """
    if max(width(family.inputs), width(family.outputs)) > LARGEST or rows_per_sample(family) > 1:
        return None
    maps = _read_off(family)
    elements = None if maps is None else _closed(*_distinct(*maps))
    if elements is None or len(elements[0]) == 1:
        return None
    table = _table(*elements)
    return _sorted(table, *(exact(matrices, table) for matrices in elements))


def _read_off(family: TaskFamily) -> Maps | None:
    """The matrices that `augment` applies to `_SAMPLES` samples. None if it does something else, or nothing."""
    n, m = width(family.inputs), width(family.outputs)
    x, y = _within_bounds(family.inputs), _within_bounds(family.outputs)
    if family.loss == "cross_entropy":
        y = np.eye(m, dtype=np.float32)[y.argmax(1)]
    moved = _moved(family, x, y)
    if np.array_equal(moved[0], x) and np.array_equal(moved[1], y):
        return None
    on_x, on_y = np.empty((_SAMPLES, n, n)), np.empty((_SAMPLES, m, m))
    for number in range(max(n, m)):
        one_x, one_y = np.zeros((_SAMPLES, n), np.float32), np.zeros((_SAMPLES, m), np.float32)
        one_x[:, number % n] = one_y[:, number % m] = 1.0
        on_x[:, :, number % n], on_y[:, :, number % m] = _moved(family, one_x, one_y)
    for matrices, values, after in zip((on_x, on_y), (x, y), moved, strict=True):
        error = np.abs(np.einsum("sij,sj->si", matrices, values) - after).max(0)
        if not (error <= _LINEAR * np.maximum(np.abs(after).max(0), np.finfo(np.float32).tiny)).all():
            return None
        if not np.abs(matrices @ matrices.mT - np.eye(matrices.shape[-1])).max() <= _SAME:
            return None
    return on_x, on_y


def _within_bounds(fields: Sequence[Field]) -> NDArray[np.float32]:
    """Random vectors `(_SAMPLES, n)` that the fields allow. No task is simulated, and no split is needed."""
    rng = np.random.default_rng(0)
    parts = []
    for field in fields:
        low, high = (field.low, field.high) if math.isfinite(field.high - field.low) else (-1.0, 1.0)
        parts.append(rng.uniform(low, high, (_SAMPLES, field.size)))
    return np.concatenate(parts, 1).astype(np.float32)


def _moved(family: TaskFamily, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """What `augment` makes of vectors, always with the same random numbers. Labels are vectors with a one."""
    labels = family.loss == "cross_entropy"
    given_x = x.reshape(1, -1, *sample_shape(family.inputs))  # as training gives it: tasks, samples
    given_y = y.argmax(-1)[None] if labels else y.reshape(1, -1, *sample_shape(family.outputs))
    moved_x, moved_y = family.augment(np.random.default_rng(0), given_x, given_y)
    return moved_x.reshape(x.shape), np.eye(y.shape[1])[moved_y[0]] if labels else moved_y.reshape(y.shape)


def _distinct(on_x: NDArray, on_y: NDArray) -> Maps:
    """The different ones, the identity first. One more than `MOST` at most."""
    flat = np.concatenate([on_x.reshape(len(on_x), -1), on_y.reshape(len(on_y), -1)], 1)
    flat[np.abs(flat) < _ZERO] = 0.0
    identity = np.concatenate([np.eye(on_x.shape[-1]).ravel(), np.eye(on_y.shape[-1]).ravel()])
    found, left = [identity], flat
    while len(left := left[np.abs(left - found[-1]).max(1) > _SAME]) and len(found) <= MOST:
        found.append(left[0])
    return _apart(np.stack(found), on_x.shape[-1])


def _closed(on_x: NDArray, on_y: NDArray) -> Maps | None:
    """The elements and all their products. None if there are too many."""
    # two elements that move a random vector to one place are the same
    rng, found_x, found_y, position = np.random.default_rng(0), list(on_x), list(on_y), 0
    moved_x, moved_y = on_x @ rng.normal(size=on_x.shape[-1]), on_y @ rng.normal(size=on_y.shape[-1])
    places = list(np.concatenate([moved_x, moved_y], 1))
    while position < len(found_x):
        x, y = found_x[position], found_y[position]
        for index, after in enumerate(np.concatenate([moved_x @ x.T, moved_y @ y.T], 1)):
            if np.abs(np.stack(places) - after).max(1).min() > _SAME:
                places.append(after)
                found_x.append(x @ on_x[index])
                found_y.append(y @ on_y[index])
        if len(found_x) > MOST:
            return None
        position += 1
    return np.stack(found_x), np.stack(found_y)


def _apart(flat: NDArray, n: int) -> Maps:
    m = round((flat.shape[1] - n * n) ** 0.5)
    return flat[:, : n * n].reshape(-1, n, n), flat[:, n * n :].reshape(-1, m, m)


def _table(on_x: NDArray, on_y: NDArray) -> NDArray[np.intp]:
    """`(order, order)`: the element nearest to the product of two elements."""
    flat = np.concatenate([on_x.reshape(len(on_x), -1), on_y.reshape(len(on_y), -1)], 1)
    rows = []
    for x, y in zip(on_x, on_y, strict=True):
        products = np.concatenate([(x @ on_x).reshape(len(on_x), -1), (y @ on_y).reshape(len(on_y), -1)], 1)
        rows.append(((flat**2).sum(1) - 2 * products @ flat.T).argmin(1))
    return np.stack(rows)


def exact(matrices: NDArray, table: NDArray[np.intp]) -> NDArray[np.float64]:
    """Remove the rounding of float32: what is nearly a representation is near one, and averages lead there.

    Products of zeros stay zero, which a singular value decomposition would not keep.
    """
    for _ in range(4):
        matrices = np.stack([(matrices[row] @ matrices.mT).mean(0) for row in table])
        matrices = matrices @ (3.0 * np.eye(matrices.shape[-1]) - matrices.mT @ matrices) / 2.0
    matrices[0] = np.eye(matrices.shape[-1])
    return matrices


def _sorted(table: NDArray[np.intp], on_x: NDArray, on_y: NDArray) -> Group:
    """Name the group. Elements of a cyclic group are sorted as the powers of its smallest turn."""
    order = len(table)
    powers = [_powers(table, element) for element in range(order)]
    orders = np.array([len(each) for each in powers])
    if orders.max() == order:
        traces = np.trace(on_x, axis1=1, axis2=2) + np.trace(on_y, axis1=1, axis2=2)
        turn = max(np.flatnonzero(orders == order), key=lambda element: (round(traces[element], 6), -element))
        return Group(f"C{order}", on_x[powers[turn]], on_y[powers[turn]])
    if orders.max() == 2:
        name = "x".join(["C2"] * (order.bit_length() - 1))
    elif orders.max() == order // 2 and (table != table.T).any() and (orders == 2).sum() >= order // 2:
        name = f"D{order // 2}"
    else:
        name = f"order {order}"
    return Group(name, on_x, on_y)


def _powers(table: NDArray[np.intp], element: int) -> list[int]:
    powers = [0]
    while (after := int(table[powers[-1], element])) != 0:
        powers.append(after)
    return powers
