"""Compute only once what a graph computes twice, part of v by part of v, and read weights that are known."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from msr_c.graphs.building import view
from msr_c.graphs.constants import Constants
from msr_c.graphs.dims import Dim
from msr_c.graphs.graph import Graph, Op
from msr_c.rewriting.symmetry import source


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
