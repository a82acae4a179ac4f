"""Known groups: which linear maps commute with a group, computed from its matrices alone.

A group is a finite set of transformations, for example the four quarter turns of the plane. Two of them, one after the
other, are again one of the set. A layer W is equivariant if it does not matter whether its input or its output is
transformed, for every element g:

    W (g x) = g (W x)

A representation writes the elements as matrices: a float64 array `(order, n, n)`, one invertible matrix per element,
the identity first. `order` is the number of elements. A `Group` holds two representations: how the group acts on the
layer's input and how it acts on the layer's output.

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
"""One matrix per group element: float64 `(order, n, n)`, the identity first."""

TOLERANCE = 1e-9
"""Largest entry-wise error allowed between the product of two group elements and the element it equals."""
_ZERO = 1e-12  # smaller entries count as zero: they are rounding errors of sines and cosines


class BlockRun(NamedTuple):
    """Equal blocks that follow each other on the diagonal of a representation."""

    block: Representation
    """The matrix of one block for every element: `(order, size, size)`."""
    copies: int
    """How many times the block is repeated."""


def multiplication_table(group: Group) -> NDArray[np.intp]:
    """Multiply every pair of elements.

    Returns:
        A table `(order, order)`. Entry `[i, j]` is the number of the element that equals element i times element j.

    Raises:
        ValueError: The matrices do not represent a finite group. The message names the element and the error. Possible
            causes: a side does not have one finite square matrix per element; element 0 is not the identity; two
            elements are equal on both sides; an element has no inverse; a product of two elements is not an element.

    """
    for side, matrices in (("inputs", group.inputs), ("outputs", group.outputs)):
        square = matrices.ndim == 3 and matrices.shape[1] == matrices.shape[2] and matrices.size
        if not square or len(matrices) != len(group.inputs):
            raise ValueError(
                f"group '{group.name}': its {side} have shape {matrices.shape}, but one square matrix per element is "
                f"wanted, and the group has {len(group.inputs)} elements on its inputs; most likely one side misses "
                "elements, or its matrices were not stacked along a first axis"
            )
        finite = np.isfinite(matrices).all((1, 2))
        if not finite.all():
            element = int(np.argmin(finite))
            raise ValueError(
                f"group '{group.name}': element {element} of its {side} holds a number that is not finite, but finite "
                "matrices are wanted; most likely the code that builds the group divides by zero"
            )
    # A block that is repeated needs to be checked only once.
    blocks = [run.block for side in (group.inputs, group.outputs) for run in block_runs(side)]
    error = max(np.abs(block[0] - np.eye(len(block[0]))).max() for block in blocks)
    if error > TOLERANCE:
        raise ValueError(
            f"group '{group.name}': element 0 must be the identity, but is off by {error:.2g}; give the identity as "
            "the first element, on inputs and outputs"
        )
    table = np.stack([_row(group.name, blocks, i) for i in range(group.order)])
    for i, row in enumerate(table):
        if len(np.unique(row)) < len(row):
            raise ValueError(
                f"group '{group.name}': element {i} times two different elements gives the same element, but different "
                f"elements are wanted; either element {i} has no inverse, or two elements have equal matrices on both "
                "sides; give each element once, as an invertible matrix"
            )
    return table


def _row(name: str, blocks: list[Representation], i: int) -> NDArray[np.intp]:
    """Multiply element i by every element and find each product among the elements: `(order,)`.

    All `blocks`, of inputs and outputs, are compared together: two elements may be equal on one side.
    """
    elements = np.concatenate([block.reshape(len(block), -1) for block in blocks], axis=1)
    products = np.concatenate([(block[i] @ block).reshape(len(block), -1) for block in blocks], axis=1)
    # |product - element|² without |product|², which is the same for every element.
    nearest = np.argmin((elements**2).sum(1) - 2 * products @ elements.T, axis=1)
    errors = np.abs(products - elements[nearest]).max(1)
    j = int(np.argmax(errors))
    if errors[j] > TOLERANCE:
        raise ValueError(
            f"group '{name}': element {i} times element {j} is none of the {len(elements)} elements: the nearest, "
            f"element {nearest[j]}, is off by {errors[j]:.2g}, and at most {TOLERANCE:g} is allowed; either an element "
            "is missing, or one of these three has a wrong matrix on the input or on the output"
        )
    return nearest


def regular(group: Group, width: int) -> Representation:
    """The regular representation of a group, repeated until it is `width` wide.

    It permutes the units of a hidden layer: element i moves entry j of each copy to the entry of i times j. Every
    pointwise nonlinearity commutes with a permutation, so it keeps the layer equivariant.

    Args:
        group: The group.
        width: Units of the hidden layer, a multiple of the group's order.

    Returns:
        The matrices `(order, width, width)`, float64.

    Raises:
        ValueError: `group` is not a group (see `multiplication_table`), or `width` is not a multiple of its order.

    """
    table = multiplication_table(group)
    order = len(table)
    if width < 1 or width % order:
        raise ValueError(
            f"a layer {width} wide cannot hold the regular representation of group '{group.name}': the width must be a "
            f"multiple of its order {order}, for example {order * max(1, round(width / order))}; set `width`"
        )
    one = np.eye(order)[table].mT
    return np.stack([np.kron(np.eye(width // order), matrix) for matrix in one])


def mlp_actions(module: nn.Module, group: Group) -> dict[str, Group]:
    """Let `group` act on a chain of Linear layers.

    The first layer reads the group's input. The last layer writes its output. Between them lie regular representations.

    Args:
        module: A module whose Linear layers form a chain: each reads what the one before it writes.
        group: How the group acts on the module's input and output.

    Returns:
        Name of a Linear layer to the group's action on it, in the module's order.

    Raises:
        ValueError: `module` holds no Linear layer; `group` is not a group; or a layer's width does not fit the layer
            before it or the group.

    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    if not layers:
        raise ValueError(
            f"{type(module).__name__} holds no Linear layer for group '{group.name}' to act on, but at least one is "
            "wanted; take a network of Linear layers ('mlp'), or another form of U"
        )
    for (before, first), (after, second) in pairwise(layers.items()):
        if first.out_features != second.in_features:
            raise ValueError(
                f"layer '{before}' writes {first.out_features} numbers and '{after}' reads {second.in_features}, but "
                "the same number is wanted: these Linear layers do not form a chain, so pass one Group per layer to "
                "`actions` of `reparameterize`"
            )
    widths = [layer.out_features for layer in layers.values()][:-1]
    sides = [group.inputs, *(regular(group, width) for width in widths), group.outputs]
    return {name: Group(group.name, *pair) for name, pair in zip(layers, pairwise(sides), strict=True)}


def block_runs(representation: Representation) -> list[BlockRun]:
    """Cut a representation into the smallest blocks along its diagonal.

    Equal neighboring blocks are counted as one run.
    """
    largest = np.abs(representation).max(0)
    linked = np.maximum(largest, largest.T) > _ZERO
    # A cut is a place where no entry, of any element, links the part before it to the part after it.
    cuts = [i for i in range(len(linked) + 1) if not linked[:i, i:].any()]
    found: list[BlockRun] = []
    for start, stop in pairwise(cuts):
        block = representation[:, start:stop, start:stop]
        last = found[-1] if found else None
        if last and last.block.shape == block.shape and np.abs(last.block - block).max() < _ZERO:
            found[-1] = last._replace(copies=last.copies + 1)
        else:
            found.append(BlockRun(block, 1))
    return found


def equivariant_dimension(outputs: Representation, inputs: Representation) -> int:
    """The dimension of the space of equivariant maps.

    It is the mean, over the group, of the product of both characters. A character is the trace of an element's matrix.
    """
    return round(
        float(np.mean(np.trace(outputs, axis1=1, axis2=2) * np.trace(np.linalg.inv(inputs), axis1=1, axis2=2)))
    )


def equivariant_basis(outputs: Representation, inputs: Representation) -> NDArray[np.float64]:
    """An orthonormal basis `(dimension, m, n)` of the maps W `(m, n)` with `outputs[i] W = W inputs[i]` for all i.

    The mean of `outputs[i] W inputs[i]⁻¹` over the group projects any W onto this space. So projected random maps span
    it. The projector itself would be a matrix with `m n` rows and columns; it is never formed.
    """
    dimension, inverses = equivariant_dimension(outputs, inputs), np.linalg.inv(inputs)
    basis = np.random.default_rng(0).normal(size=(dimension, outputs.shape[1], inputs.shape[1]))
    # The first round starts from vectors that are not orthogonal and leaves a rounding error. The second removes it.
    for _ in range(2):
        projected = np.zeros_like(basis)
        for on_output, inverse in zip(outputs, inverses, strict=True):
            projected += on_output @ basis @ inverse
        basis = np.linalg.qr(projected.reshape(dimension, math.prod(basis.shape[1:])).T)[0].T.reshape(basis.shape)
    return basis
