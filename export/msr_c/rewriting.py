"""Rewrite a graph so that its C is short and fast: parts of v one by one, known weights, linear systems by Cholesky."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from msr_c.constants import Constants
from msr_c.dims import Dim
from msr_c.graph import Graph, Op
from msr_c.operators import view
from msr_c.symmetry import source

_SQUARINGS = 10
"""The fewest squarings by which a chain of products is known as the solver of the exporter."""


def part_by_part(graph: Graph) -> None:
    """Compute each part of v by itself, where the graph computes v as a whole and then cuts it.

    So a layer's weights can be folded as soon as its part of v is known, while its U is still in the caches.
    """
    for op in list(graph.ops):
        if op.kind == "view" and graph[op.inputs[0]].size != graph[op.output].size:
            whole = graph.producer(op.inputs[0])
            if whole is not None and whole.kind == "elementwise" and len(graph[op.inputs[0]].shape) == 2:
                begin, length = op.attributes["offset"].fixed, graph[op.output].size.fixed
                if graph[op.inputs[0]].shape[0] != 1 or begin is None or length is None:
                    continue
                place = graph.ops.index(op)
                graph.ops, rest = graph.ops[:place], graph.ops[place + 1 :]
                found = _part(graph, op.inputs[0], begin, length)
                if found is None:
                    graph.ops += [op, *rest]
                else:
                    view(graph, found, op.output, graph[op.output].shape)
                    graph.ops += rest
    _join_outputs(graph)
    graph.tidy()


def _part(graph: Graph, name: str, begin: int, length: int) -> str | None:
    """Return a tensor with the numbers `begin` to `begin + length` of a row. None: it cannot be made alone."""
    tensor = graph[name]
    if tensor.size == 1:
        return name
    if tensor.constant is not None:
        return graph.constant(name, tensor.constant.reshape(1, -1)[:, begin : begin + length])
    op = graph.producer(name)
    if op is not None and op.kind == "elementwise":
        inputs = [_part(graph, each, begin, length) for each in op.inputs]
        known = [each for each in inputs if each is not None]
        if len(known) < len(inputs):
            return None
        output = graph.new(name, (1, length), tensor.dtype)
        graph.ops.append(Op("elementwise", known, [output], op.attributes))
        return output
    if op is not None and op.kind == "concat":
        at = 0
        for each in op.inputs:
            size = graph[each].size.fixed
            if at == begin and size == length:
                return each
            at += size or 0
        return None
    output = graph.new(name, (1, length), tensor.dtype)
    view(graph, name, output, (Dim.of(1), Dim.of(length)), begin)
    return output


def _join_outputs(graph: Graph) -> None:
    """Make an output of the parts of v that were computed, instead of computing it again as a whole."""
    for output in graph.outputs:
        whole = graph.producer(output)
        if whole is None or whole.kind != "elementwise":
            continue
        joined = next((op for name in whole.inputs for op in [_joined(graph, name)] if op), None)
        if joined is None:
            continue
        at, parts = 0, list[str]()
        place = graph.ops.index(whole) + 1
        graph.ops, rest = graph.ops[:place], graph.ops[place:]
        for each in joined.inputs:
            length = graph[each].size.fixed or 0
            part = _part(graph, output, at, length)
            assert part is not None  # the same operation has been cut at these places already
            parts.append(part)
            at += length
        graph.ops.remove(whole)
        graph.ops.append(Op("concat", parts, [output], {"axis": 1}))
        graph.ops += rest


def _joined(graph: Graph, name: str) -> Op | None:
    op = graph.producer(name)
    if op is not None and op.kind == "elementwise":
        return next((found for each in op.inputs for found in [_joined(graph, each)] if found), None)
    return op if op is not None and op.kind == "concat" and graph[name].shape[0] == 1 else None


def merge_equal(graph: Graph) -> None:
    """Compute what is computed twice only once."""
    found: dict[tuple[object, ...], Op] = {}
    values: dict[tuple[object, ...], str] = {}
    for name, tensor in graph.tensors.items():
        if (value := tensor.constant) is not None:
            first = values.setdefault((value.dtype.str, value.shape, value.tobytes()), name)
            if first != name:
                graph.replace(name, first)
    for op in list(graph.ops):
        shapes = tuple(graph[name].shape for name in op.outputs)
        key = op.kind, tuple(op.inputs), repr(sorted(op.attributes.items())), shapes
        first = found.setdefault(key, op)
        if first is not op and not set(op.outputs) & set(graph.outputs):
            for old, new in zip(op.outputs, first.outputs, strict=True):
                graph.replace(old, new)
    graph.tidy()


def use_known_weights(graph: Graph, constants: Constants, start: Mapping[str, NDArray]) -> None:
    """Read a weight that the graph is given, instead of folding it again from the v that belongs to it.

    Args:
        graph: The graph.
        constants: The symmetry matrices.
        start: "v" `(1, K)`, and the stored weights that belong to it.
    """
    for op in list(graph.ops):
        if op.kind != "fold":
            continue
        cut, whole = graph.producer(source(graph, op.inputs[0])), source(graph, op.inputs[0])
        begin = 0
        if cut is not None and cut.kind == "view":
            begin, whole = cut.attributes["offset"].fixed or 0, cut.inputs[0]
        symmetry = constants.symmetries[op.attributes["U"]]
        if whole != "v" or "v" not in graph.inputs:
            continue
        folded = start["v"][0, begin : begin + len(symmetry.rows)].astype(np.float64) @ symmetry.rows
        for name, weight in start.items():
            near = 1e-5 * float(np.abs(weight).max())
            if name == "v" or name not in graph.inputs or weight.size != folded.size:
                continue
            if np.allclose(folded, weight.ravel(), rtol=1e-4, atol=near):
                place = graph.ops.index(op)
                graph.ops, rest = graph.ops[:place], graph.ops[place + 1 :]
                view(graph, name, op.output, graph[op.output].shape)
                graph.ops += rest
                break
    graph.tidy()


def join_steps(graph: Graph) -> None:
    """Join pull, move by constant rates and fold of one U: then a step reads U once."""
    for fold in list(graph.ops):
        if fold.kind != "fold":
            continue
        move = graph.producer(source(graph, fold.inputs[0]))
        if move is None or move.kind != "elementwise" or move.attributes["operator"] != "Sub":
            continue
        scaled = graph.producer(source(graph, move.inputs[1]))
        if scaled is None or scaled.kind != "elementwise" or scaled.attributes["operator"] != "Mul":
            continue
        rate, pulled = scaled.inputs
        if graph[rate].constant is None:
            rate, pulled = pulled, rate
        pull = graph.producer(source(graph, pulled))
        if (
            graph[rate].constant is None
            or pull is None
            or pull.kind != "pull"
            or pull.attributes["U"] != fold.attributes["U"]
        ):
            continue
        if graph[pull.inputs[0]].size.fixed is None or len(graph.readers(pull.output)) > 1:
            continue
        place = graph.ops.index(fold)
        step = Op("step", [move.inputs[0], rate, pull.inputs[0]], [move.output, fold.output], fold.attributes)
        graph.ops[place] = step
        graph.ops.remove(move)
        graph.tidy()


def solve_by_cholesky(graph: Graph) -> None:
    """Replace the exporter's solver, a chain of squared matrices, by a Cholesky factorization.

    ONNX has no solver. The chain finds x of `A x = b` for a positive definite A, of which `[A, -b]` is joined first.
    """
    for op in list(graph.ops):
        if op.kind != "strided" and op.kind != "view":
            continue
        chain = _through(graph, op.inputs[0])
        squarings = 0
        while chain is not None and chain.kind == "elementwise" and chain.attributes["operator"] == "Sub":
            product = _through(graph, chain.inputs[0])
            if product is None or product.kind != "elementwise" or product.attributes["operator"] != "Mul":
                break
            square = _through(graph, product.inputs[1])
            if square is None or square.kind != "matmul" or square.inputs[0] != square.inputs[1]:
                break
            squarings, chain = squarings + 1, _through(graph, square.inputs[0])
        if squarings < _SQUARINGS or chain is None or graph[op.output].size == graph[op.inputs[0]].size:
            continue
        joined = next((found for found in _above(graph, chain) if found.kind == "concat"), None)
        if joined is None or len(joined.inputs) != 2:
            continue
        A, minus_b = joined.inputs
        negated = _through(graph, minus_b)
        rows = graph[A].shape[0]
        if negated is None or negated.attributes.get("operator") != "Neg" or graph[op.output].size != rows:
            continue
        place = graph.ops.index(op)
        graph.ops[place] = Op("solve", [A, negated.inputs[0]], op.outputs)
        graph.tidy()


def _through(graph: Graph, name: str) -> Op | None:
    """The operation that made the numbers of a tensor, through views and cuts."""
    op = graph.producer(name)
    while op is not None and op.kind in ("view", "strided"):
        op = graph.producer(op.inputs[0])
    return op


def _above(graph: Graph, op: Op, depth: int = 4) -> list[Op]:
    """The operations that an operation needs, the nearest first."""
    found, level = [op], [op]
    for _ in range(depth):
        level = [made for each in level for name in each.inputs if (made := _through(graph, name))]
        found += level
    return found
