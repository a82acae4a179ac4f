"""The part of `check_family` that checks the group: do its matrices form a group, and does `augment` apply it?"""

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import FamilyError
from msr_runtime.task import Group, acted

_TOLERANCE = 1e-6
"""Largest entry-wise error allowed between two matrices that must be equal."""


def check_group(family: str, group: Group, input_width: int, output_width: int) -> None:
    """Check that the matrices form a group: shapes, identity, orthogonality, distinct elements and products.

    The product of any two elements must be an element, and the same one on the inputs and on the outputs.

    Args:
        family: The family's name, for messages.
        group: The group.
        input_width: Length of the input vector.
        output_width: Length of the output vector.

    Raises:
        FamilyError: At the first broken rule.

    """
    for side, matrices, size in (("inputs", group.inputs, input_width), ("outputs", group.outputs, output_width)):
        if side == "inputs" and np.issubdtype(np.asarray(matrices).dtype, np.integer) and np.ndim(matrices) == 2:
            _check_orders(family, group, size)
            continue
        wanted = (len(group.inputs), size, size)
        if np.shape(matrices) != wanted:
            _fail(
                family,
                group,
                f"{side} has the shape {np.shape(matrices)}, but it must be {wanted} (order, width, width); the "
                "likely cause is a field that the direct sum leaves out, or two sides of different order",
            )
        if not _close(matrices[0], np.eye(size)):
            _fail(family, group, f"element 0 is not the identity on the {side}, but the identity must come first")
        for index, matrix in enumerate(matrices):
            error = float(np.abs(matrix @ matrix.T - np.eye(size)).max())
            if not error <= _TOLERANCE:
                _fail(
                    family,
                    group,
                    f"element {index} is not orthogonal on the {side} (off by {error:.2g}); the likely cause is a "
                    "scaled block or a sign in a rotation",
                )
    _check_products(family, group)


def _check_orders(family: str, group: Group, size: int) -> None:
    places = np.arange(size)
    for index, order in enumerate(group.inputs):
        if not np.array_equal(np.sort(order), places):
            _fail(
                family,
                group,
                f"element {index} is no order of the {size} numbers of the inputs, each from 0 to {size - 1} once; the "
                "likely cause is an image of another size, or channels that were left out",
            )
    if not np.array_equal(group.inputs[0], places):
        _fail(family, group, "element 0 is not the identity on the inputs, but the identity must come first")
    if len(group.inputs) != len(group.outputs):
        _fail(family, group, f"{len(group.inputs)} elements act on the inputs, but {len(group.outputs)} on the outputs")


def _check_products(family: str, group: Group) -> None:
    # Two matrices can be equal only where they move a random vector to one place. This leaves few to compare in full.
    width = group.inputs.shape[-1]
    vector = np.random.default_rng(0).normal(size=width)
    moved = np.stack([acted(element, vector) for element in group.inputs])
    for i in range(group.order):
        twins = [
            j for j in _matches(group.inputs, group.inputs[i]) if j > i and _close(group.outputs[j], group.outputs[i])
        ]
        if twins:
            _fail(family, group, f"elements {i} and {twins[0]} are the same, but elements must differ")
        apart = np.abs(acted(group.inputs[i], moved)[:, None] - moved).max(-1)
        for j, near in enumerate(apart <= 10 * width * _TOLERANCE):
            # Several elements may have the same matrix on the inputs. One of them must fit on the outputs too.
            product = _product(group.inputs[i], group.inputs[j])
            candidates = [k for k in np.flatnonzero(near).tolist() if _close(group.inputs[k], product)]
            if not candidates:
                _fail(
                    family,
                    group,
                    f"on the inputs, element {i} times element {j} equals no element, so these are not a group; the "
                    "likely cause is a missing element, or an angle of which no multiple is a full turn",
                )
            image = group.outputs[i] @ group.outputs[j]
            if not any(_close(group.outputs[k], image) for k in candidates):
                _fail(
                    family,
                    group,
                    f"element {i} times element {j} is element {candidates[0]} on the inputs but not on the outputs; "
                    "the likely cause is that the outputs turn the other way round, or list the elements in another "
                    "order",
                )


def check_action(
    family: str, group: Group, before: tuple[NDArray, NDArray], after: tuple[NDArray, NDArray], tasks: int
) -> None:
    """Check that `augment` moved x and y of each example by one group element, drawn per example.

    Args:
        family: The family's name, for messages.
        group: The group.
        before: x and y `(examples, width)` before `augment`.
        after: x and y `(examples, width)` after it.
        tasks: How many tasks the examples belong to, equally many to each, one task after another.

    Raises:
        FamilyError: No group element turns an example into its augmented copy, or one element moved all examples of a
            task.

    """
    # (order, examples): distance of each augmented example from each image of its original, over the largest entry
    misses_x, misses_y = (
        np.stack([np.abs(acted(element, b) - a).max(-1) for element in matrices]) / max(float(np.abs(b).max()), 1e-12)
        for matrices, b, a in zip((group.inputs, group.outputs), before, after, strict=True)
    )
    fits_x, fits = misses_x <= 1e-4, np.maximum(misses_x, misses_y) <= 1e-4
    if not fits_x.any(0).all():
        _fail(
            family,
            group,
            "augment returned an x that no element of group() gives; augment and group() must apply the same group",
        )
    if not fits.any(0).all():
        _fail(
            family,
            group,
            "augment moved an x by one element and its y by none that fits; the likely cause is that elements are "
            "drawn for x and y apart, or that y turns the other way round",
        )
    alike = np.any(fits.reshape(group.order, tasks, -1).all(2), 1)  # (order,): whether it moved all examples of a task
    if group.order > 1 and alike.any():
        _fail(
            family,
            group,
            f"augment moved all {fits.shape[1] // tasks} examples of a task by element {alike.argmax()}; the likely "
            "cause is one draw a batch or a task, where each example needs its own",
        )
    reached = _generated(group, np.flatnonzero(np.any(fits, 1)).tolist())
    if len(reached) < group.order:
        absent = next(element for element in range(group.order) if element not in reached)
        _fail(
            family,
            group,
            f"augment never moves by element {absent}, nor by elements that make it: on {fits.shape[1]} examples it "
            f"stayed among {len(reached)} of the {group.order} elements; augment and group() must apply the same group",
        )


def _generated(group: Group, elements: list[int]) -> set[int]:
    """Return every element that is a product of the given ones."""
    reached, new = {0}, [0]
    while new:
        products = [
            j
            for i in new
            for e in elements
            for j in _matches(group.inputs, _product(group.inputs[i], group.inputs[e]))
            if _close(group.outputs[j], group.outputs[i] @ group.outputs[e])
        ]
        new = list(set(products) - reached)
        reached |= set(new)
    return reached


def _product(first: NDArray, then: NDArray) -> NDArray:
    """The element `first then`, which acts by `then` and, after it, by `first`: matrices, or orders of numbers."""
    return first @ then if first.ndim == 2 else then[first]


def _matches(elements: NDArray, element: NDArray) -> list[int]:
    apart = np.abs(elements - element).reshape(len(elements), -1).max(1)
    return np.flatnonzero(apart <= _TOLERANCE).tolist()


def _close(a: NDArray, b: NDArray) -> bool:
    return bool(np.abs(a - b).max() <= _TOLERANCE)


def _fail(family: str, group: Group, message: str) -> NoReturn:
    raise FamilyError(f"family '{family}', group {group.name}: {message}")
