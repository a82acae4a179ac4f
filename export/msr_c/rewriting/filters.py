"""Find the gradients by filters of convolutions, which the exporter writes as products with patches of images.

ONNX has no operator for them. A patch is cut out and joined by many operations, which only move numbers: so what they
move where is compared with what a convolution reads.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_c.graphs.building import view
from msr_c.graphs.dims import size
from msr_c.graphs.graph import Graph, Op
from msr_c.rewriting.layout import transposed
from msr_c.rewriting.moves import ZERO, moved

_SAMPLES = (2, 3)
"""Places are compared for these numbers of samples: places are linear in it."""


def find_filter_gradients(graph: Graph) -> None:
    """Replace each product with the patches that a convolution reads. Its filters are then never read as patches."""
    convolutions = [op for op in graph.ops if op.kind == "conv"]
    for op in list(graph.ops) if convolutions else []:
        if op.kind == "matmul" and len(op.inputs) == 2:
            found = next((each for conv in convolutions for each in [_match(graph, conv, op)] if each), None)
            if found:
                _replace(graph, op, found)
    graph.tidy()


class _Found(NamedTuple):
    """A gradient by the filters of a convolution."""

    convolution: Op
    back: str
    """The gradient by its result."""


def _match(graph: Graph, conv: Op, product: Op) -> _Found | None:
    """The convolution of whose filters a product is the gradient, for each number of samples."""
    filters, groups = graph[conv.inputs[1]].shape, conv.attributes["groups"]
    n = graph[conv.output].shape[0]
    if n.fixed is not None or graph[product.output].size != size(filters):
        return None
    if any(graph[name].size != whole for name, whole in zip(product.inputs, _sizes(graph, conv), strict=True)):
        return None
    backs = set[str]()
    for samples in _SAMPLES:
        shape = [dim.at(samples) for dim in graph[conv.output].shape]
        back, places = moved(graph, product.inputs[0], samples)
        if [dim.at(samples) for dim in graph[back].shape] != shape:
            return None
        whole = np.arange(int(np.prod(shape))).reshape(samples, shape[1], -1)
        by_channel = whole.transpose(1, 0, 2).reshape(groups, shape[1] // groups, -1)
        if not _same(places, by_channel, product.attributes["ta"]):
            return None
        image, read = moved(graph, product.inputs[1], samples)
        source, at = moved(graph, conv.inputs[0], samples)
        if image != source or not _same(read, _patches(at, conv, shape), not product.attributes["tb"]):
            return None
        backs.add(back)
    return _Found(conv, backs.pop())


def _sizes(graph: Graph, conv: Op) -> tuple[object, object]:
    """How many numbers the gradient by the result has, and the patches."""
    out, filters = graph[conv.output].shape, graph[conv.inputs[1]].shape
    return size(out), size((out[0], *out[2:])) * size(filters[1:]) * conv.attributes["groups"]


def _same(places: NDArray, wanted: NDArray, turned: bool) -> bool:
    """Whether places are those of a matrix, or of one for each group, or of the transposed ones."""
    if turned:
        places = places.swapaxes(-1, -2)
    groups = wanted.shape[0]
    return places.shape[-2:] == wanted.shape[1:] and np.array_equal(places.reshape(groups, *wanted.shape[1:]), wanted)


def _patches(image: NDArray, conv: Op, out: list[int]) -> NDArray:
    """The places that each tap reads at each position: `(groups, in / groups * taps, n * positions)`."""
    settings, (samples, channels, *lengths) = conv.attributes, image.shape
    axes = zip(out[2:], lengths, *(settings[name] for name in ("taps", "strides", "pads", "dilations")), strict=True)
    ends = [
        max(0, (count - 1) * step + (tap - 1) * apart + 1 - pad - length)
        for count, length, tap, step, pad, apart in axes
    ]
    padded = np.pad(image, [(0, 0), (0, 0), *zip(settings["pads"], ends, strict=True)], constant_values=ZERO)
    read = np.empty((samples, channels, *settings["taps"], *out[2:]), image.dtype)
    for tap in np.ndindex(*settings["taps"]):
        cut = [
            slice(each * apart, each * apart + (count - 1) * step + 1, step)
            for each, apart, count, step in zip(tap, settings["dilations"], out[2:], settings["strides"], strict=True)
        ]
        read[(slice(None), slice(None), *tap)] = padded[(slice(None), slice(None), *cut)]
    rows = read.reshape(samples, -1, int(np.prod(out[2:]))).transpose(1, 0, 2)
    return rows.reshape(settings["groups"], rows.shape[0] // settings["groups"], -1)


def _replace(graph: Graph, op: Op, found: _Found) -> None:
    """Compute the gradient from the images themselves."""
    conv = found.convolution
    filters = graph[conv.inputs[1]].shape
    place = graph.ops.index(op)
    graph.ops, rest = graph.ops[:place], graph.ops[place + 1 :]
    stored = graph.new(op.output, (size(filters[1:]), filters[0]), graph[op.output].dtype)
    graph.ops.append(Op("conv filters", [conv.inputs[0], found.back], [stored], dict(conv.attributes)))
    view(graph, transposed(graph, stored), op.output, graph[op.output].shape)
    graph.ops += rest
