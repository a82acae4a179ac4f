"""Convolutions along one axis or two, and transposed ones, which are their gradients by the image."""

from msr_c.graphs.dims import Dim
from msr_c.graphs.graph import Attributes, Graph, Op
from msr_runtime.errors import ExportError


def conv(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """Conv: images `(n, in, *size)`, filters `(out, in / groups, *taps)`."""
    x, taps = graph[inputs[0]].shape, _taps(graph, inputs[1])
    strides, before, after, apart = _settings(graph, inputs, attributes)
    sizes = [
        (_fixed(graph, inputs[0], size) + low + high - step * (tap - 1) - 1) // stride + 1
        for size, stride, low, high, step, tap in zip(x[2:], strides, before, after, apart, taps, strict=True)
    ]
    _add(graph, inputs, outputs[0], "conv", attributes, (graph[inputs[1]].shape[0], sizes))


def conv_transpose(graph: Graph, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """ConvTranspose: images `(n, in, *size)`, filters `(in, out / groups, *taps)`."""
    x, taps = graph[inputs[0]].shape, _taps(graph, inputs[1])
    strides, before, after, apart = _settings(graph, inputs, attributes)
    more = attributes.get("output_padding", [0] * len(taps))
    sizes = [
        stride * (_fixed(graph, inputs[0], size) - 1) + extra + step * (tap - 1) + 1 - low - high
        for size, stride, extra, low, high, step, tap in zip(
            x[2:], strides, more, before, after, apart, taps, strict=True
        )
    ]
    channels = graph[inputs[1]].shape[1] * attributes.get("group", 1)
    _add(graph, inputs, outputs[0], "conv transpose", attributes, (channels, sizes))


def _add(
    graph: Graph, inputs: list[str], output: str, kind: str, attributes: Attributes, shape: tuple[Dim, list[int]]
) -> None:
    strides, before, _, apart = _settings(graph, inputs, attributes)
    channels, sizes = shape
    x = graph[inputs[0]]
    graph.add(output, x.dtype, (x.shape[0], channels, *sizes))
    settings = {"taps": _taps(graph, inputs[1]), "strides": strides, "pads": before, "dilations": apart}
    settings["groups"] = attributes.get("group", 1)
    graph.ops.append(Op(kind, [name for name in inputs if name], [output], settings))


def _settings(graph: Graph, inputs: list[str], attributes: Attributes) -> tuple[list[int], ...]:
    """Strides, pads before and after, and dilations."""
    axes = len(graph[inputs[0]].shape) - 2
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or "output_shape" in attributes or axes not in (1, 2):
        raise ExportError(f"{graph.name}.onnx has a convolution along {axes} axes, or pads it by itself; not so in C")
    pads = attributes.get("pads", [0] * 2 * axes)
    ones = [1] * axes
    return attributes.get("strides", ones), pads[:axes], pads[axes:], attributes.get("dilations", ones)


def _taps(graph: Graph, name: str) -> list[int]:
    return [_fixed(graph, name, dim) for dim in graph[name].shape[2:]]


def _fixed(graph: Graph, name: str, dim: Dim) -> int:
    if dim.fixed is None:
        raise ExportError(f"{graph.name}.onnx convolves '{name}' along the samples, which is not written in C")
    return dim.fixed
