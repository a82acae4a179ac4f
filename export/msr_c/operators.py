"""What each ONNX operator becomes: an operation of few kinds, and the shape of its result."""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import numpy_helper

from msr_c.dims import Dim, Dims, size
from msr_c.graph import Graph, Op, c_type
from msr_runtime.errors import ExportError

ELEMENTWISE = {
    "Add": "({} + {})",
    "Sub": "({} - {})",
    "Mul": "({} * {})",
    "Div": "({} / {})",
    "Neg": "(-{})",
    "Abs": "{abs}({})",
    "Sqrt": "{sqrt}({})",
    "Reciprocal": "({one} / {})",
    "Exp": "{exp}({})",
    "Log": "{log}({})",
    "Sigmoid": "{sigmoid}({})",
    "Tanh": "{tanh}({})",
    "Relu": "{max}({}, {zero})",
    "Max": "{max}({}, {})",
    "Min": "{min}({}, {})",
    "Greater": "({} > {})",
    "Less": "({} < {})",
    "GreaterOrEqual": "({} >= {})",
    "LessOrEqual": "({} <= {})",
    "Equal": "({} == {})",
    "And": "({} && {})",
    "Or": "({} || {})",
    "Not": "(!{})",
    "Where": "({} ? {} : {})",
    "Sin": "{sin}({})",
    "Cos": "{cos}({})",
    "Erf": "{erf}({})",
    "Floor": "{floor}({})",
    "Sign": "(({} > {zero}) - ({0} < {zero}))",
    "Square": "({0} * {0})",
    "Power": "{pow}({}, {})",
    "Cast": "({type})({})",
}
"""Elementwise operators, as C writes them."""
_TRUTHS = ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", "And", "Or", "Not")
_REDUCTIONS = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min"}

Attributes = dict[str, Any]
_Translator = Callable[[Graph, list[str], list[str], Attributes], None]


def translate(graph: Graph, operator: str, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """Add the operation of a node to a graph."""
    if operator in ELEMENTWISE and operator != "Cast":
        _elementwise(graph, operator, inputs, outputs[0])
    elif operator in _REDUCTIONS:
        _reduce(graph, _REDUCTIONS[operator], inputs, outputs[0], attributes)
    else:
        _TRANSLATORS[operator](graph, inputs, outputs, attributes)


def broadcast(*shapes: Dims) -> Dims:
    """Return the shape of the result of arrays that are broadcast against each other."""
    rank = max(map(len, shapes))
    padded = [(Dim.of(1),) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(next((dim for dim in dims if dim != 1), Dim.of(1)) for dims in zip(*padded, strict=True))


def strides(shape: Dims) -> list[Dim]:
    """Return how far apart in memory neighbours along each axis are."""
    return [size(shape[axis + 1 :]) for axis in range(len(shape))]


def _elementwise(graph: Graph, operator: str, inputs: list[str], output: str, dtype: str | None = None) -> None:
    shape = broadcast(*(graph[name].shape for name in inputs))
    if dtype is None:
        dtype = "int" if operator in _TRUTHS else graph[inputs[-1]].dtype
    graph.add(output, dtype, shape)
    graph.ops.append(Op("elementwise", list(inputs), [output], {"operator": operator}))


def _cast(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    dtype = {1: "float", 11: "double", 6: "int", 7: "int", 9: "int"}[attributes["to"]]
    _elementwise(graph, "Cast", inputs, outputs[0], dtype)


def _pow(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    exponent = graph[inputs[1]].constant
    square = exponent is not None and exponent.size == 1 and exponent.item() == 2
    _elementwise(graph, *(("Square", inputs[:1]) if square else ("Power", inputs)), outputs[0])


def _clip(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    low, high = (*inputs[1:], "", "")[:2]
    value = inputs[0]
    if low:
        low_made = outputs[0] if not high else graph.new(outputs[0], (), graph[value].dtype)
        _elementwise(graph, "Max", [value, low], low_made)
        value = low_made
    if high:
        _elementwise(graph, "Min", [value, high], outputs[0])


def view(graph: Graph, name: str, output: str, shape: Dims, offset: Dim | int = 0) -> None:
    """Add a view: the numbers of a tensor from an offset on, in another shape."""
    graph.add(output, graph[name].dtype, shape)
    graph.ops.append(Op("view", [name], [output], {"offset": Dim.of(offset)}))


def strided(graph: Graph, name: str, output: str, shape: Dims, steps: list[Dim], offset: Dim | int = 0) -> None:
    """Add a copy of a tensor's numbers that lie an offset and steps along each axis apart."""
    if all(dim == 1 or step == own for dim, step, own in zip(shape, steps, strides(shape), strict=True)):
        view(graph, name, output, shape, offset)
        return
    graph.add(output, graph[name].dtype, shape)
    graph.ops.append(Op("strided", [name], [output], {"strides": steps, "offset": Dim.of(offset)}))


def _reshape(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    value, source = graph[inputs[1]].value, graph[inputs[0]]
    assert value is not None
    wanted = [Dim.of(dim) for dim in value.tolist()]
    if not attributes.get("allowzero", 0):
        wanted = [source.shape[axis] if dim == 0 else dim for axis, dim in enumerate(wanted)]
    if Dim.of(-1) in wanted:
        axis = wanted.index(Dim.of(-1))
        wanted[axis] = source.size // size(tuple(wanted[:axis] + wanted[axis + 1 :]))
    view(graph, inputs[0], outputs[0], tuple(wanted))


def _squeeze(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    shape, axes = graph[inputs[0]].shape, _axes(graph, inputs[1:], len(graph[inputs[0]].shape))
    dropped = {axis for axis, dim in enumerate(shape) if dim == 1} if axes is None else axes
    view(graph, inputs[0], outputs[0], tuple(dim for axis, dim in enumerate(shape) if axis not in dropped))


def _unsqueeze(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    shape, given = list(graph[inputs[0]].shape), graph[inputs[1]].constant
    assert given is not None
    rank = len(shape) + given.size
    for axis in sorted(int(axis) % rank for axis in given.ravel()):
        shape.insert(axis, Dim.of(1))
    view(graph, inputs[0], outputs[0], tuple(shape))


def _flatten(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    shape, axis = graph[inputs[0]].shape, attributes.get("axis", 1)
    view(graph, inputs[0], outputs[0], (size(shape[:axis]), size(shape[axis:])))


def _identity(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    view(graph, inputs[0], outputs[0], graph[inputs[0]].shape)


def _axes(graph: Graph, names: list[str], rank: int) -> set[int] | None:
    given = graph[names[0]].constant if names and names[0] else None
    return None if given is None or not given.size else {int(axis) % rank for axis in given.ravel()}


def _transpose(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    shape = graph[inputs[0]].shape
    order = attributes.get("perm") or list(range(len(shape)))[::-1]
    own = strides(shape)
    strided(graph, inputs[0], outputs[0], tuple(shape[axis] for axis in order), [own[axis] for axis in order])


def _expand(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    source, value = graph[inputs[0]].shape, graph[inputs[1]].value
    assert value is not None
    shape = broadcast(source, tuple(map(Dim.of, value.tolist())))
    steps = [Dim.of(0)] * (len(shape) - len(source))
    steps += [Dim.of(0) if dim == 1 else step for dim, step in zip(source, strides(source), strict=True)]
    strided(graph, inputs[0], outputs[0], shape, steps)


def _slice(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    shape = list(graph[inputs[0]].shape)
    parts = [graph[name].constant if name else None for name in inputs[1:]]
    starts, ends = ([int(each) for each in part.ravel()] if part is not None else [] for part in parts[:2])
    axes, steps = [*parts[2:], None, None][:2]
    axes = list(range(len(starts))) if axes is None else [int(axis) % len(shape) for axis in axes]
    every = [1] * len(starts) if steps is None else [int(step) for step in steps]
    own, offset = strides(tuple(shape)), Dim.of(0)
    for begin, end, axis, step in zip(starts, ends, axes, every, strict=True):
        full = shape[axis]
        if step != 1:
            raise ExportError(f"{graph.name}.onnx cuts '{inputs[0]}' in steps of {step}; only 1 is written in C")
        first = full + begin if begin < 0 else Dim.of(begin)
        last = full + end if end < 0 else full if full.fixed is None or end >= full.fixed else Dim.of(end)
        shape[axis], offset = last - first, offset + own[axis] * first
    strided(graph, inputs[0], outputs[0], tuple(shape), own, offset)


def _split(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    shape = graph[inputs[0]].shape
    axis, own = attributes.get("axis", 0) % len(shape), strides(shape)
    lengths = graph[inputs[1]].value if len(inputs) > 1 and inputs[1] else None
    parts = [shape[axis] // len(outputs)] * len(outputs) if lengths is None else list(map(Dim.of, lengths.tolist()))
    begin = Dim.of(0)
    for output, length in zip(outputs, parts, strict=True):
        strided(graph, inputs[0], output, (*shape[:axis], length, *shape[axis + 1 :]), own, own[axis] * begin)
        begin = begin + length


def _gather(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    source, at = graph[inputs[0]].shape, graph[inputs[1]].constant
    axis, own = attributes.get("axis", 0) % len(source), strides(source)
    if at is None or at.size != 1:
        indices = graph[inputs[1]].shape
        graph.add(outputs[0], graph[inputs[0]].dtype, (*source[:axis], *indices, *source[axis + 1 :]))
        graph.ops.append(Op("gather", list(inputs), [outputs[0]], {"axis": axis}))
        return
    place = source[axis] + int(at.item()) if at.item() < 0 else Dim.of(int(at.item()))
    extra = [Dim.of(1)] * at.ndim
    shape = (*source[:axis], *extra, *source[axis + 1 :])
    steps = [*own[:axis], *[Dim.of(0)] * at.ndim, *own[axis + 1 :]]
    strided(graph, inputs[0], outputs[0], shape, steps, own[axis] * place)


def _gather_elements(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    source, at = graph[inputs[0]], graph[inputs[1]]
    axis = attributes.get("axis", 0) % len(source.shape)
    graph.add(outputs[0], source.dtype, at.shape)
    graph.ops.append(Op("gather elements", list(inputs), [outputs[0]], {"axis": axis}))


def _concat(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    first = graph[inputs[0]]
    axis = attributes["axis"] % len(first.shape)
    total = Dim.of(0)
    for name in inputs:
        total = total + graph[name].shape[axis]
    graph.add(outputs[0], first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :]))
    graph.ops.append(Op("concat", list(inputs), [outputs[0]], {"axis": axis}))


def _pad(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    mode, source, pads = attributes.get("mode", b"constant"), graph[inputs[0]], graph[inputs[1]].constant
    assert pads is not None
    if mode != b"constant" or (len(inputs) > 3 and inputs[3]):
        raise ExportError(f"{graph.name}.onnx pads '{inputs[0]}' with {mode.decode()}; only constants are written in C")
    value = graph[inputs[2]].constant if len(inputs) > 2 and inputs[2] else np.zeros(())
    rank = len(source.shape)
    before, after = pads[:rank].tolist(), pads[rank:].tolist()
    shape = tuple(dim + low + high for dim, low, high in zip(source.shape, before, after, strict=True))
    graph.add(outputs[0], source.dtype, shape)
    assert value is not None
    graph.ops.append(Op("pad", inputs[:1], [outputs[0]], {"before": before, "value": float(value)}))


def _range(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    start, limit, delta = (graph[name].value for name in inputs)
    assert limit is not None
    if start is None or delta is None or start.item() != 0 or delta.item() != 1:
        raise ExportError(f"{graph.name}.onnx counts otherwise than from 0 in ones, which is not written in C")
    graph.add(outputs[0], "int", (Dim.of(limit.item()),))
    graph.ops.append(Op("range", [], [outputs[0]]))


def _reduce(graph: Graph, kind: str, inputs: list[str], output: str, attributes: Attributes) -> None:
    rank = len(graph[inputs[0]].shape)
    axes = _axes(graph, inputs[1:], rank)
    keep = bool(attributes.get("keepdims", 1))
    _reduced(graph, kind, inputs[0], set(range(rank)) if axes is None else axes, output, keep)


def _reduced(graph: Graph, kind: str, name: str, axes: set[int], output: str, keep: bool) -> None:
    source = graph[name]
    kept = tuple(Dim.of(1) if axis in axes else dim for axis, dim in enumerate(source.shape))
    shape = kept if keep else tuple(dim for axis, dim in enumerate(source.shape) if axis not in axes)
    if all(source.shape[axis] == 1 for axis in axes):
        view(graph, name, output, shape)
        return
    graph.add(output, source.dtype, shape)
    graph.ops.append(Op("reduce", [name], [output], {"reduction": kind, "axes": axes}))


def _softmax(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes, log: bool = False) -> None:
    """Softmax, or its logarithm: with the largest number taken off first, so that no power overflows."""
    name, dtype, shape = inputs[0], graph[inputs[0]].dtype, graph[inputs[0]].shape
    axes = {attributes.get("axis", -1) % len(shape)}
    largest, less, power, total, end = (graph.new(outputs[0], (), dtype) for _ in range(5))
    _reduced(graph, "max", name, axes, largest, keep=True)
    _elementwise(graph, "Sub", [name, largest], less)
    _elementwise(graph, "Exp", [less], power)
    _reduced(graph, "sum", power, axes, total, keep=True)
    if log:
        _elementwise(graph, "Log", [total], end)
        _elementwise(graph, "Sub", [less, end], outputs[0])
    else:
        _elementwise(graph, "Div", [power, total], outputs[0])


def _log_softmax(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    _softmax(graph, inputs, outputs, attributes, log=True)


def _constant_of_shape(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    sizes = graph[inputs[0]].value
    assert sizes is not None
    value = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    shape = tuple(map(Dim.of, sizes.tolist()))
    graph.add(outputs[0], c_type(value.dtype), shape)
    steps = {"strides": [Dim.of(0)] * len(shape), "offset": Dim.of(0)}
    graph.ops.append(Op("strided", [graph.constant(outputs[0], value)], [outputs[0]], steps))


def _scatter_elements(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    source = graph[inputs[0]]
    if attributes.get("reduction", b"none") != b"none":
        raise ExportError(f"{graph.name}.onnx adds up where it scatters, which is not written in C")
    graph.add(outputs[0], source.dtype, source.shape)
    axis = attributes.get("axis", 0) % len(source.shape)
    graph.ops.append(Op("scatter elements", list(inputs), [outputs[0]], {"axis": axis}))


def _gemm(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
        raise ExportError(f"{graph.name}.onnx scales a Gemm by alpha or beta, which is not written in C")
    flags = {"ta": bool(attributes.get("transA", 0)), "tb": bool(attributes.get("transB", 0))}
    a, b = graph[inputs[0]], graph[inputs[1]]
    shape = (a.shape[1] if flags["ta"] else a.shape[0], b.shape[0] if flags["tb"] else b.shape[1])
    graph.add(outputs[0], a.dtype, shape)
    graph.ops.append(Op("matmul", [name for name in inputs if name], [outputs[0]], flags))


def _matmul(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    a, b = graph[inputs[0]], graph[inputs[1]]
    if min(len(a.shape), len(b.shape)) < 2:
        raise ExportError(f"{graph.name}.onnx multiplies a matrix by a vector of one axis, which is not written in C")
    batch = broadcast(a.shape[:-2], b.shape[:-2])
    graph.add(outputs[0], a.dtype, (*batch, a.shape[-2], b.shape[-1]))
    graph.ops.append(Op("matmul", list(inputs), [outputs[0]], {"ta": False, "tb": False}))


_TRANSLATORS: dict[str, _Translator] = {
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gemm": _gemm,
    "Identity": _identity,
    "LogSoftmax": _log_softmax,
    "MatMul": _matmul,
    "Pad": _pad,
    "Pow": _pow,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
KNOWN = {*ELEMENTWISE, *_REDUCTIONS, *_TRANSLATORS, "Constant", "Shape"} - {"Square", "Power"}
"""The ONNX operators that can be written in C."""
