"""Store each matrix of weights transposed, `(inputs, outputs)`, so that a layer's inner loop runs over its outputs.

Filters are stored as a matrix too: `(inputs and taps, outputs)`.

Transposes are then moved into the matrix products, which read their operands either way.
"""

from collections.abc import Iterable

import numpy as np

from msr_c.graphs.building import strided, strides, view
from msr_c.graphs.dims import Dim, Dims, size
from msr_c.graphs.graph import Graph, Op


def transposed(graph: Graph, name: str) -> str:
    """Add the transpose of a matrix, and return its name."""
    (rows, columns), own = graph[name].shape, strides(graph[name].shape)
    output = graph.new(name, (columns, rows), graph[name].dtype)
    strided(graph, name, output, (columns, rows), own[::-1])
    return output


def store_transposed(graph: Graph, weights: Iterable[str], next_name: str) -> None:
    """Let a graph read and write weights as the C code stores them.

    Args:
        graph: The graph.
        weights: Names of the weights.
        next_name: The name of an output, for the name of a weight: `{}_next` or `{}`.
    """
    for weight in weights:
        if weight in graph.inputs and len(graph[weight].shape) > 1:
            tensor = graph[weight]
            shape = tensor.shape
            tensor.shape = size(shape[1:]), shape[0]
            graph.ops, rest = [], graph.ops
            logical = _reshaped(graph, transposed(graph, weight), shape)
            made = graph.ops
            graph.ops = rest
            graph.replace(weight, logical)
            graph.ops = made + rest
        output = next_name.format(weight)
        if output in graph.outputs and len(graph[output].shape) > 1:
            shape = graph[output].shape
            stored = transposed(graph, _reshaped(graph, output, (shape[0], size(shape[1:]))))
            graph.outputs[graph.outputs.index(output)] = stored
    _transpose_constants(graph)
    flatten_products(graph)
    absorb_transposes(graph)
    graph.tidy()


def _reshaped(graph: Graph, name: str, shape: Dims) -> str:
    """Return a tensor in another shape."""
    if graph[name].shape == shape:
        return name
    output = graph.new(name, shape, graph[name].dtype)
    view(graph, name, output, shape)
    return output


def is_transpose(graph: Graph, op: Op | None) -> bool:
    """Whether an operation transposes a matrix."""
    if op is None or op.kind != "strided" or op.attributes["offset"] != 0:
        return False
    source = graph[op.inputs[0]].shape
    return len(source) == 2 and op.attributes["strides"] == strides(source)[::-1]


def _transpose_constants(graph: Graph) -> None:
    """Transpose the constant weights of layers that do not adapt. They are those that a product reads transposed."""
    turned: dict[str, str] = {}
    for op in graph.ops:
        if op.kind == "matmul" and op.attributes["tb"] and (value := graph[op.inputs[1]].constant) is not None:
            if graph[op.inputs[0]].shape[0].fixed == 1 and graph.name not in ("predict", "loss"):
                continue  # it may be a symmetry matrix
            name = op.inputs[1]
            if name not in turned:
                turned[name] = graph.constant(name, np.ascontiguousarray(value.T))
            op.inputs[1], op.attributes["tb"] = turned[name], False
    for op in graph.ops:
        if op.kind == "matmul" and op.inputs[1] in turned:
            op.inputs[1], op.attributes["tb"] = turned[op.inputs[1]], not op.attributes["tb"]


def flatten_products(graph: Graph) -> None:
    """Make products of a stack of matrices with one matrix products of two matrices."""
    for op in list(graph.ops):
        if op.kind != "matmul" or len(op.inputs) > 2:
            continue
        (a, b), output = op.inputs, op.output
        if len(graph[a].shape) > 2 and len(graph[b].shape) == 2:
            shape, result = graph[a].shape, graph[output].shape
            place = graph.ops.index(op)
            before, after = graph.ops[:place], graph.ops[place + 1 :]
            graph.ops = before
            rows = graph.new(a, (size(shape[:-1]), shape[-1]), graph[a].dtype)
            view(graph, a, rows, graph[rows].shape)
            flat = graph.new(output, (size(shape[:-1]), result[-1]), graph[output].dtype)
            graph.ops.append(Op("matmul", [rows, b], [flat], op.attributes))
            view(graph, flat, output, result)
            graph.ops += after


def _absorb(graph: Graph) -> bool:
    """Move one transpose into the product beside it, or drop two that cancel. Return whether there was one."""
    made = {name: op for op in graph.ops for name in op.outputs}
    for op in graph.ops:
        if is_transpose(graph, op):
            before = made.get(op.inputs[0])
            if before is not None and is_transpose(graph, before):
                source = before.inputs[0]
                if op.output in graph.outputs:
                    op.kind, op.inputs, op.attributes = "view", [source], {"offset": Dim.of(0)}
                else:
                    graph.replace(op.output, source)
                return True
            if (
                before is not None
                and before.kind == "matmul"
                and graph.alone(op.inputs[0])
                and [len(graph[name].shape) for name in before.inputs] == [2, 2]
            ):
                flags = before.attributes
                before.inputs, before.outputs = before.inputs[::-1], op.outputs
                before.attributes = flags | {"ta": not flags["tb"], "tb": not flags["ta"]}
                graph.ops.remove(op)
                return True
        if op.kind == "matmul" and all(len(graph[name].shape) == 2 for name in op.inputs[:2]):
            for place, flag in ((0, "ta"), (1, "tb")):
                before = made.get(op.inputs[place])
                if is_transpose(graph, before):
                    assert before is not None
                    op.inputs[place] = before.inputs[0]
                    op.attributes = op.attributes | {flag: not op.attributes[flag]}
                    return True
    return False


def drop_views(graph: Graph) -> None:
    """Read through views that change nothing, and compute numbers in the shape in which their source has them.

    So the same numbers, computed twice in two shapes, are seen to be the same.
    """
    for op in list(graph.ops):
        if op.kind == "elementwise":
            _reshape_elementwise(graph, op)
    for op in list(graph.ops):
        if op.kind in ("view", "strided"):
            _make_constant(graph, op)
        if op.kind == "view":
            _skip(graph, op)
    graph.tidy()


def _make_constant(graph: Graph, op: Op) -> None:
    """Cut a constant now, if what is cut out has a fixed size."""
    value, shape = graph[op.inputs[0]].constant, [dim.fixed for dim in graph[op.output].shape]
    if value is None or None in shape or op.output in graph.outputs:
        return
    known = [dim or 0 for dim in shape]
    steps = op.attributes.get("strides") or strides(graph[op.output].shape)
    places = np.full(known, op.attributes["offset"].at(1))
    for axis, step in enumerate(steps):
        places += (np.arange(known[axis]) * step.at(1)).reshape(-1, *[1] * (len(known) - axis - 1))
    graph.replace(op.output, graph.constant(op.output, np.ascontiguousarray(value.ravel()[places])))


def _skip(graph: Graph, op: Op) -> None:
    """Let a view show the source of the view before it, and drop it if it changes nothing."""
    before = graph.producer(op.inputs[0])
    if before is not None and before.kind == "view":
        op.inputs = list(before.inputs)
        op.attributes = {"offset": before.attributes["offset"] + op.attributes["offset"]}
    if graph[op.inputs[0]].shape == graph[op.output].shape and op.output not in graph.outputs:
        graph.replace(op.output, op.inputs[0])


def _reshape_elementwise(graph: Graph, op: Op) -> None:
    output = graph[op.output]
    if op.output in graph.outputs or any(graph[name].size not in (output.size, Dim.of(1)) for name in op.inputs):
        return
    made = [graph.producer(name) for name in op.inputs]
    views = [each for each in made if each and each.kind == "view" and graph[each.inputs[0]].size == output.size]
    if not views or output.size == 1:
        return
    shape = graph[views[0].inputs[0]].shape
    if shape == output.shape:
        return
    place = graph.ops.index(op)
    graph.ops, rest = graph.ops[:place], graph.ops[place + 1 :]
    for at, name in enumerate(op.inputs):
        source = next((each.inputs[0] for each in views if each.output == name), name)
        if graph[source].size == output.size and graph[source].shape != shape:
            again = graph.new(name, shape, graph[name].dtype)
            view(graph, source, again, shape)
            source = again
        elif graph[source].size == 1 and len(graph[source].shape) > len(shape):
            again = graph.new(name, (), graph[name].dtype)
            view(graph, source, again, ())
            graph[again].value = graph[source].value
            source = again
        op.inputs[at] = source
    made_name = graph.new(op.output, shape, output.dtype)
    graph.ops.append(Op("elementwise", op.inputs, [made_name], op.attributes))
    view(graph, made_name, op.output, output.shape)
    graph.ops += rest


def join_biases(graph: Graph) -> None:
    """Let a product add the bias that is added to its result."""
    for op in list(graph.ops):
        if op.kind != "elementwise" or op.attributes["operator"] != "Add":
            continue
        for bias, name in (op.inputs, op.inputs[::-1]):
            cut = graph.producer(name)
            product = graph.producer(cut.inputs[0]) if cut is not None and cut.kind == "view" else cut
            if (
                product is not None
                and product.kind == "matmul"
                and len(product.inputs) == 2
                and len(graph[product.output].shape) == 2
                and graph[product.output].size == graph[op.output].size
                and len(graph[bias].shape) == 1
                and graph[bias].shape[0] == graph[product.output].shape[1] == graph[op.output].shape[-1]
            ):
                made = graph.new(product.output, graph[product.output].shape, graph[product.output].dtype)
                place = graph.ops.index(op)
                graph.ops, rest = graph.ops[:place], graph.ops[place + 1 :]
                graph.ops.append(Op("matmul", [*product.inputs, bias], [made], product.attributes))
                view(graph, made, op.output, graph[op.output].shape)
                graph.ops += rest
                break
    graph.tidy()


def absorb_transposes(graph: Graph) -> None:
    """Move transposes into the products beside them, as far as they go."""
    while _absorb(graph):
        graph.tidy()
