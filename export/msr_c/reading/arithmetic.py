"""Operators that compute: casts, powers, reductions, softmax and matrix products."""

from msr_c.graphs.building import broadcast, elementwise, reduced, view
from msr_c.graphs.graph import Attributes, Graph, Op
from msr_c.reading.shapes import axes_of
from msr_runtime.errors import ExportError


def cast(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """Cast."""
    dtype = {1: "float", 11: "double", 6: "int", 7: "int", 9: "int"}[attributes["to"]]
    elementwise(graph, "Cast", inputs, outputs[0], dtype)


def power(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    """Pow. A square is a product."""
    exponent = graph[inputs[1]].constant
    square = exponent is not None and exponent.size == 1 and exponent.item() == 2
    elementwise(graph, *(("Square", inputs[:1]) if square else ("Power", inputs)), outputs[0])


def clip(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    """Clip."""
    low, high = (*inputs[1:], "", "")[:2]
    value = inputs[0]
    if low:
        low_made = outputs[0] if not high else graph.new(outputs[0], (), graph[value].dtype)
        elementwise(graph, "Max", [value, low], low_made)
        value = low_made
    if high:
        elementwise(graph, "Min", [value, high], outputs[0])


def reduce(graph: Graph, kind: str, inputs: list[str], output: str, attributes: Attributes) -> None:
    """A sum, mean or extreme over axes that an input names."""
    rank = len(graph[inputs[0]].shape)
    axes = axes_of(graph, inputs[1:], rank)
    keep = bool(attributes.get("keepdims", 1))
    reduced(graph, kind, inputs[0], set(range(rank)) if axes is None else axes, output, keep)


def log_sum_exp(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """ReduceLogSumExp, with the largest number taken off first, so that no power overflows."""
    source = graph[inputs[0]]
    found = axes_of(graph, inputs[1:], len(source.shape))
    axes = set(range(len(source.shape))) if found is None else found
    largest, less, power, total, end, made = (graph.new(outputs[0], (), source.dtype) for _ in range(6))
    reduced(graph, "max", inputs[0], axes, largest, keep=True)
    elementwise(graph, "Sub", [inputs[0], largest], less)
    elementwise(graph, "Exp", [less], power)
    reduced(graph, "sum", power, axes, total, keep=True)
    elementwise(graph, "Log", [total], end)
    elementwise(graph, "Add", [end, largest], made)
    kept = attributes.get("keepdims", 1)
    shape = tuple(dim for axis, dim in enumerate(graph[made].shape) if kept or axis not in axes)
    view(graph, made, outputs[0], shape)


def softmax(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes, log: bool = False) -> None:
    """Softmax, or its logarithm: with the largest number taken off first, so that no power overflows."""
    name, dtype, shape = inputs[0], graph[inputs[0]].dtype, graph[inputs[0]].shape
    axes = {attributes.get("axis", -1) % len(shape)}
    largest, less, power, total, end = (graph.new(outputs[0], (), dtype) for _ in range(5))
    reduced(graph, "max", name, axes, largest, keep=True)
    elementwise(graph, "Sub", [name, largest], less)
    elementwise(graph, "Exp", [less], power)
    reduced(graph, "sum", power, axes, total, keep=True)
    if log:
        elementwise(graph, "Log", [total], end)
        elementwise(graph, "Sub", [less, end], outputs[0])
    else:
        elementwise(graph, "Div", [power, total], outputs[0])


def log_softmax(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """The logarithm of the softmax."""
    softmax(graph, inputs, outputs, attributes, log=True)


def gemm(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """Gemm."""
    if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
        raise ExportError(f"{graph.name}.onnx scales a Gemm by alpha or beta, which is not written in C")
    flags = {"ta": bool(attributes.get("transA", 0)), "tb": bool(attributes.get("transB", 0))}
    a, b = graph[inputs[0]], graph[inputs[1]]
    shape = (a.shape[1] if flags["ta"] else a.shape[0], b.shape[0] if flags["tb"] else b.shape[1])
    graph.add(outputs[0], a.dtype, shape)
    graph.ops.append(Op("matmul", [name for name in inputs if name], [outputs[0]], flags))


def matmul(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    """MatMul."""
    a, b = graph[inputs[0]], graph[inputs[1]]
    if min(len(a.shape), len(b.shape)) < 2:
        raise ExportError(f"{graph.name}.onnx multiplies a matrix by a vector of one axis, which is not written in C")
    batch = broadcast(a.shape[:-2], b.shape[:-2])
    graph.add(outputs[0], a.dtype, (*batch, a.shape[-2], b.shape[-1]))
    graph.ops.append(Op("matmul", list(inputs), [outputs[0]], {"ta": False, "tb": False}))
