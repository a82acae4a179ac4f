"""Find what a graph computes with the symmetry matrices U, and write it as operations that read U row by row.

With a row of U for each filter parameter k, a weight is `W = sum over k of v[k] U[k]`. There are four operations:

* `fold`: W of v.
* `pull`: gradients of W, one in each row, become gradients of v: `dv[k] = <dW, U[k]>`.
* `slopes`: the same for the gradients `a deltaᵀ` of a linear layer at each sample. The matrices `a deltaᵀ` themselves,
  which are larger than all else, are never made.
* `step`: pull, a move of v by rates, and fold, in one pass over U.
"""

import numpy as np
from numpy.typing import NDArray

from msr_c.graphs.constants import Constants, Symmetry
from msr_c.graphs.dims import Dim
from msr_c.graphs.graph import Graph, Op
from msr_c.rewriting.layout import is_transpose, transposed


def source(graph: Graph, name: str) -> str:
    """Return the tensor of which a tensor is the same numbers in another shape."""
    while (op := graph.producer(name)) and op.kind == "view" and graph[op.inputs[0]].size == graph[name].size:
        name = op.inputs[0]
    return name


def find_folds(graph: Graph, constants: Constants, weights: dict[str, str]) -> None:
    """Find the folds whose results are weights, and keep their U.

    Args:
        graph: The graph, with its weights stored as the C code does.
        constants: Where each U is kept.
        weights: Output to the name of its weight.
    """
    for output in list(graph.outputs):
        if output not in weights:
            continue
        name = source(graph, output)
        turn = graph.producer(name)
        turning = is_transpose(graph, turn)
        product = graph.producer(source(graph, turn.inputs[0]) if turning and turn else name)
        if product is None or product.kind != "matmul" or len(product.inputs) > 2:
            continue
        row, U = product.inputs
        value = graph[U].constant
        if value is None or value.ndim != 2 or graph[row].shape[0] != 1 or product.attributes["ta"]:
            continue
        rows = value.T if product.attributes["tb"] else value
        shape = tuple(dim.at(1) for dim in graph[output].shape)
        if turning:
            rows = rows.reshape(len(rows), *shape[::-1]).swapaxes(1, 2).reshape(len(rows), -1)
        symmetry = constants.symmetry(rows, shape, f"U_{weights[output]}")
        graph.ops.append(Op("fold", [row], [output], {"U": symmetry.name}))
        graph.ops.remove(next(op for op in graph.ops if output in op.outputs and op.kind != "fold"))
    graph.tidy()


def find_products(graph: Graph, constants: Constants) -> None:
    """Find products with each U that was kept: pulls, slopes, and folds of the v that the graph is given."""
    for op in list(graph.ops):
        if op.kind != "matmul" or len(op.inputs) > 2:
            continue
        value = graph[op.inputs[1]].constant
        if value is not None and value.ndim == 2 and not op.attributes["ta"]:
            _product(graph, constants, op, value)
        elif not op.attributes["ta"] and not op.attributes["tb"]:
            _slopes_of_sample(graph, constants, op)
    graph.tidy()


def _product(graph: Graph, constants: Constants, op: Op, value: NDArray) -> None:
    left = op.inputs[0]
    if op.attributes["tb"]:
        for symmetry in constants.symmetries.values():
            if _is(symmetry, value.T) and graph[left].shape[0] == 1:
                _become(op, "fold", [left], symmetry)
                return
            turns = len(symmetry.weight) == 2 and _is(symmetry, _turned(value.T, symmetry.weight[::-1]))
            if turns and graph[left].shape[0] == 1:
                _fold_turned(graph, op, symmetry)
                return
        return
    outer = graph.producer(source(graph, left))
    for symmetry in constants.symmetries.values():
        rows = value.T
        turns = len(symmetry.weight) == 2 and _is(symmetry, _turned(rows, symmetry.weight[::-1]))
        if turns and outer is not None and _is_outer(graph, outer):
            _become(op, "slopes", [outer.inputs[1], outer.inputs[0]], symmetry)
            return
        if turns and outer is not None and len(graph[source(graph, left)].shape) == 2 and graph[left].shape[0] == 1:
            _become(op, "pull", [_flip(graph, source(graph, left), op)], symmetry)
            return
        if _is(symmetry, rows):
            _become(op, "pull", [left], symmetry)
            return


def _fold_turned(graph: Graph, op: Op, symmetry: Symmetry) -> None:
    """Turn a product that folds a weight as it is not stored into a fold and a transpose."""
    stored = graph.new(op.output, symmetry.weight)
    place = graph.ops.index(op)
    graph.ops, rest = graph.ops[:place], graph.ops[place + 1 :]
    graph.ops.append(Op("fold", [op.inputs[0]], [stored], {"U": symmetry.name}))
    logical = transposed(graph, stored)
    graph.ops.append(Op("view", [logical], list(op.outputs), {"offset": Dim.of(0)}))
    graph.ops += rest


def _flip(graph: Graph, name: str, before: Op) -> str:
    """Add the transpose of a matrix before an operation; a product that only makes this matrix is turned itself."""
    place = graph.ops.index(before)
    graph.ops, rest = graph.ops[:place], graph.ops[place:]
    output = transposed(graph, name)
    graph.ops += rest
    return output


def _slopes_of_sample(graph: Graph, constants: Constants, op: Op) -> None:
    """Find `delta @ (a @ U)` with U as `(inputs, outputs * k)`."""
    delta, right = op.inputs
    inner = graph.producer(source(graph, right))
    if inner is None or inner.kind != "matmul" or len(inner.inputs) > 2 or len(graph[right].shape) != 2:
        return
    a, value = inner.inputs[0], graph[inner.inputs[1]].constant
    if value is None or inner.attributes["ta"] or inner.attributes["tb"] or graph[a].shape[0] != 1:
        return
    outputs, k = (dim.at(1) for dim in graph[right].shape)
    rows = value.reshape(len(value), outputs, k).transpose(2, 0, 1).reshape(k, -1)
    if symmetry := constants.find(rows):
        _become(op, "slopes", [a, delta], symmetry)


def _is_outer(graph: Graph, op: Op) -> bool:
    """Whether an operation multiplies a column by a row, at each sample."""
    return op.kind == "matmul" and graph[op.inputs[0]].shape[-1] == 1 and graph[op.inputs[1]].shape[-2] == 1


def _become(op: Op, kind: str, inputs: list[str], symmetry: Symmetry) -> None:
    op.kind, op.inputs, op.attributes = kind, inputs, {"U": symmetry.name}


def _turned(rows: NDArray, shape: tuple[int, ...]) -> NDArray:
    if rows.shape[1] != shape[0] * shape[1]:
        return rows
    return rows.reshape(len(rows), *shape).swapaxes(1, 2).reshape(len(rows), -1)


def _is(symmetry: Symmetry, rows: NDArray) -> bool:
    return symmetry.rows.shape == rows.shape and np.array_equal(symmetry.rows, rows)
