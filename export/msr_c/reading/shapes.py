"""Operators that only move numbers: they become views, copies, joins and gathers."""

import numpy as np
from onnx import numpy_helper

from msr_c.graphs.building import broadcast, strided, strides, view
from msr_c.graphs.dims import Dim, size
from msr_c.graphs.graph import Attributes, Graph, Op, c_type
from msr_runtime.errors import ExportError


def reshape(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """Reshape."""
    value, source = graph[inputs[1]].value, graph[inputs[0]]
    assert value is not None
    wanted = [Dim.of(dim) for dim in value.tolist()]
    if not attributes.get("allowzero", 0):
        wanted = [source.shape[axis] if dim == 0 else dim for axis, dim in enumerate(wanted)]
    if Dim.of(-1) in wanted:
        axis = wanted.index(Dim.of(-1))
        wanted[axis] = source.size // size(tuple(wanted[:axis] + wanted[axis + 1 :]))
    view(graph, inputs[0], outputs[0], tuple(wanted))


def squeeze(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    """Squeeze."""
    shape, axes = graph[inputs[0]].shape, axes_of(graph, inputs[1:], len(graph[inputs[0]].shape))
    dropped = {axis for axis, dim in enumerate(shape) if dim == 1} if axes is None else axes
    view(graph, inputs[0], outputs[0], tuple(dim for axis, dim in enumerate(shape) if axis not in dropped))


def unsqueeze(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    """Unsqueeze."""
    shape, given = list(graph[inputs[0]].shape), graph[inputs[1]].constant
    assert given is not None
    rank = len(shape) + given.size
    for axis in sorted(int(axis) % rank for axis in given.ravel()):
        shape.insert(axis, Dim.of(1))
    view(graph, inputs[0], outputs[0], tuple(shape))


def flatten(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """Flatten."""
    shape, axis = graph[inputs[0]].shape, attributes.get("axis", 1)
    view(graph, inputs[0], outputs[0], (size(shape[:axis]), size(shape[axis:])))


def identity(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    """Identity."""
    view(graph, inputs[0], outputs[0], graph[inputs[0]].shape)


def axes_of(graph: Graph, names: list[str], rank: int) -> set[int] | None:
    """The axes that an input names. None: all."""
    given = graph[names[0]].constant if names and names[0] else None
    return None if given is None or not given.size else {int(axis) % rank for axis in given.ravel()}


def transpose(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """Transpose."""
    shape = graph[inputs[0]].shape
    order = attributes.get("perm") or list(range(len(shape)))[::-1]
    own = strides(shape)
    strided(graph, inputs[0], outputs[0], tuple(shape[axis] for axis in order), [own[axis] for axis in order])


def expand(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    """Expand."""
    source, value = graph[inputs[0]].shape, graph[inputs[1]].value
    assert value is not None
    shape = broadcast(source, tuple(map(Dim.of, value.tolist())))
    steps = [Dim.of(0)] * (len(shape) - len(source))
    steps += [Dim.of(0) if dim == 1 else step for dim, step in zip(source, strides(source), strict=True)]
    strided(graph, inputs[0], outputs[0], shape, steps)


def cut(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    """Slice, in steps of one."""
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


def split(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """Split."""
    shape = graph[inputs[0]].shape
    axis, own = attributes.get("axis", 0) % len(shape), strides(shape)
    lengths = graph[inputs[1]].value if len(inputs) > 1 and inputs[1] else None
    parts = [shape[axis] // len(outputs)] * len(outputs) if lengths is None else list(map(Dim.of, lengths.tolist()))
    begin = Dim.of(0)
    for output, length in zip(outputs, parts, strict=True):
        strided(graph, inputs[0], output, (*shape[:axis], length, *shape[axis + 1 :]), own, own[axis] * begin)
        begin = begin + length


def gather(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """Gather. A single index is a cut."""
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


def gather_elements(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """GatherElements."""
    source, at = graph[inputs[0]], graph[inputs[1]]
    axis = attributes.get("axis", 0) % len(source.shape)
    graph.add(outputs[0], source.dtype, at.shape)
    graph.ops.append(Op("gather elements", list(inputs), [outputs[0]], {"axis": axis}))


def concat(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """Concat."""
    first = graph[inputs[0]]
    axis = attributes["axis"] % len(first.shape)
    total = Dim.of(0)
    for name in inputs:
        total = total + graph[name].shape[axis]
    graph.add(outputs[0], first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :]))
    graph.ops.append(Op("concat", list(inputs), [outputs[0]], {"axis": axis}))


def pad(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """Pad by constants."""
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


def count(graph: Graph, inputs: list[str], outputs: list[str], _: Attributes) -> None:
    """Range, from 0 in ones."""
    start, limit, delta = (graph[name].value for name in inputs)
    assert limit is not None
    if start is None or delta is None or start.item() != 0 or delta.item() != 1:
        raise ExportError(f"{graph.name}.onnx counts otherwise than from 0 in ones, which is not written in C")
    graph.add(outputs[0], "int", (Dim.of(limit.item()),))
    graph.ops.append(Op("range", [], [outputs[0]]))


def constant_of_shape(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """ConstantOfShape."""
    sizes = graph[inputs[0]].value
    assert sizes is not None
    value = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    shape = tuple(map(Dim.of, sizes.tolist()))
    graph.add(outputs[0], c_type(value.dtype), shape)
    steps = {"strides": [Dim.of(0)] * len(shape), "offset": Dim.of(0)}
    graph.ops.append(Op("strided", [graph.constant(outputs[0], value)], [outputs[0]], steps))


def scatter_elements(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """ScatterElements, without sums."""
    source = graph[inputs[0]]
    if attributes.get("reduction", b"none") != b"none":
        raise ExportError(f"{graph.name}.onnx adds up where it scatters, which is not written in C")
    graph.add(outputs[0], source.dtype, source.shape)
    axis = attributes.get("axis", 0) % len(source.shape)
    graph.ops.append(Op("scatter elements", list(inputs), [outputs[0]], {"axis": axis}))
