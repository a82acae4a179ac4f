"""Groups that are known: which linear maps commute with them, computed from matrices alone.

A representation is a float64 array `(order, n, n)`, one invertible matrix an element, identity first; the action of a
group on a layer is a `Group`, its representations on the layer's input and output.

Source: Cohen, Welling, "Group Equivariant Convolutional Networks", 2016 (the regular representation); Finzi, Welling,
Wilson, "A Practical Method for Constructing Equivariant Multilayer Perceptrons", 2021 (the basis of equivariant maps).
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from msr_runtime.task import Group

Representation = NDArray[np.float64]

TOLERANCE = 1e-9
"""By how much a product of two elements may miss the element that it is."""
_ZERO = 1e-12  # entries below it are what cosines leave behind


class Run(NamedTuple):
    """Equal blocks that follow each other on the diagonal of a representation."""

    block: Representation
    """`(order, size, size)`."""
    copies: int


def multiplication_table(group: Group) -> NDArray[np.intp]:
    """Multiply every pair of elements: entry `[i, j]` of `(order, order)` is the number of element i times element j.

    Raises:
        ValueError: the matrices are no representation of a finite group. They are not finite square matrices, one an
            element on either side; element 0 is not the identity; two elements are the same on both sides; an element
            has no inverse; or a product of two is none of them. The message names the element and the error.

    """
    for side, matrices in (("inputs", group.inputs), ("outputs", group.outputs)):
        square = matrices.ndim == 3 and matrices.shape[1] == matrices.shape[2] and matrices.size
        if not square or len(matrices) != len(group.inputs):
            raise ValueError(
                f"group '{group.name}': its {side} have shape {matrices.shape}, but one square matrix for each of its "
                f"{len(group.inputs)} elements is wanted"
            )
        finite = np.isfinite(matrices).all((1, 2))
        if not finite.all():
            element = int(np.argmin(finite))
            raise ValueError(f"group '{group.name}': element {element} of its {side} holds a number that is not finite")
    blocks = [run.block for side in (group.inputs, group.outputs) for run in runs(side)]  # what is repeated, once
    error = max(np.abs(block[0] - np.eye(len(block[0]))).max() for block in blocks)
    if error > TOLERANCE:
        raise ValueError(f"group '{group.name}': element 0 must be the identity, but is off by {error:.2g}")
    table = np.stack([_row(group.name, blocks, i) for i in range(group.order)])
    for i, row in enumerate(table):
        if len(np.unique(row)) < len(row):
            raise ValueError(
                f"group '{group.name}': element {i} takes two elements to one, so that it has no inverse, or two "
                "elements are the same on both sides; give each element once, as an invertible matrix"
            )
    return table


def _row(name: str, blocks: list[Representation], i: int) -> NDArray[np.intp]:
    """What element i makes of every element, judged by all `blocks` of its matrices together: `(order,)`."""
    elements = np.concatenate([block.reshape(len(block), -1) for block in blocks], axis=1)
    products = np.concatenate([(block[i] @ block).reshape(len(block), -1) for block in blocks], axis=1)
    nearest = np.argmin((elements**2).sum(1) - 2 * products @ elements.T, axis=1)
    errors = np.abs(products - elements[nearest]).max(1)
    j = int(np.argmax(errors))
    if errors[j] > TOLERANCE:
        raise ValueError(
            f"group '{name}': element {i} times element {j} is none of the {len(elements)}: the nearest, element "
            f"{nearest[j]}, is off by {errors[j]:.2g}. An element is missing, or one of these three has a wrong matrix "
            "on the input or on the output"
        )
    return nearest


def regular(group: Group, width: int) -> Representation:
    """The regular representation `(order, width, width)`, repeated: element i moves entry j of each copy to i times j.

    It permutes the units of a hidden layer, so that every pointwise nonlinearity commutes with it.

    Raises:
        ValueError: `group` is no group (see `multiplication_table`), or `width` is no multiple of its order.

    """
    table = multiplication_table(group)
    order = len(table)
    if width < 1 or width % order:
        raise ValueError(
            f"a layer {width} wide cannot hold the regular representation of '{group.name}': the width must be a "
            f"multiple of its order {order}, for example {order * max(1, round(width / order))}"
        )
    one = np.eye(order)[table].mT
    return np.stack([np.kron(np.eye(width // order), matrix) for matrix in one])


def mlp_actions(module: nn.Module, group: Group) -> dict[str, Group]:
    """Let `group` act on a chain of Linear layers: by the names of `module`'s Linear layers, in the module's order.

    The first reads the group's input, the last writes its output, and regular representations lie between them.

    Raises:
        ValueError: `module` holds no Linear layer, `group` is no group, or a width fits neither the layer before it nor
            the group.

    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    if not layers:
        raise ValueError(f"{type(module).__name__} holds no Linear layer for '{group.name}' to act on")
    for (before, first), (after, second) in pairwise(layers.items()):
        if first.out_features != second.in_features:
            raise ValueError(
                f"layer '{before}' writes {first.out_features} numbers and '{after}' reads {second.in_features}: the "
                "Linear layers are no chain, so give each its own action"
            )
    widths = [layer.out_features for layer in layers.values()][:-1]
    sides = [group.inputs, *(regular(group, width) for width in widths), group.outputs]
    return {name: Group(group.name, *pair) for name, pair in zip(layers, pairwise(sides), strict=True)}


def runs(representation: Representation) -> list[Run]:
    """Cut a representation into the smallest blocks along its diagonal, equal neighbours counted as one run."""
    largest = np.abs(representation).max(0)
    linked = np.maximum(largest, largest.T) > _ZERO
    cuts = [i for i in range(len(linked) + 1) if not linked[:i, i:].any()]
    found: list[Run] = []
    for start, stop in pairwise(cuts):
        block = representation[:, start:stop, start:stop]
        last = found[-1] if found else None
        if last and last.block.shape == block.shape and np.abs(last.block - block).max() < _ZERO:
            found[-1] = last._replace(copies=last.copies + 1)
        else:
            found.append(Run(block, 1))
    return found


def equivariant_dimension(outputs: Representation, inputs: Representation) -> int:
    """The dimension of the space of equivariant maps: the mean over the group of the product of both characters."""
    return round(
        float(np.mean(np.trace(outputs, axis1=1, axis2=2) * np.trace(np.linalg.inv(inputs), axis1=1, axis2=2)))
    )


def equivariant_basis(outputs: Representation, inputs: Representation) -> NDArray[np.float64]:
    """An orthonormal basis `(dimension, m, n)` of the maps W `(m, n)` with `outputs[i] W = W inputs[i]` for all i.

    The mean of `outputs[i] W inputs[i]⁻¹` over the group projects onto the space, so random maps projected span it.
    The projector itself, a matrix of side `m n`, is never formed.
    """
    dimension, inverses = equivariant_dimension(outputs, inputs), np.linalg.inv(inputs)
    basis = np.random.default_rng(0).normal(size=(dimension, outputs.shape[1], inputs.shape[1]))
    for _ in range(2):  # the second round takes off what the first, of vectors not yet orthogonal, left of rounding
        projected = np.zeros_like(basis)
        for on_output, inverse in zip(outputs, inverses, strict=True):
            projected += on_output @ basis @ inverse
        basis = np.linalg.qr(projected.reshape(dimension, math.prod(basis.shape[1:])).T)[0].T.reshape(basis.shape)
    return basis
