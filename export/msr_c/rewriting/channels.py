"""Let convolutions read images with their channels last, and compute with such images from one to the next.

A convolution's inner loop runs over its outer channels then, as a linear layer's over its outputs. Filters are stored
as matrices `(inputs and taps, outputs)`.
"""

from msr_c.graphs.building import elementwise, reduced, strided, strides, view
from msr_c.graphs.dims import Dim, Dims, size
from msr_c.graphs.graph import Graph, Op
from msr_c.rewriting.layout import transposed

CONVOLUTIONS = ("conv", "conv transpose", "conv filters")


def channels_last(graph: Graph) -> None:
    """Rewrite a graph with convolutions. What else reads their images reads a copy with the channels first."""
    if any(op.kind in CONVOLUTIONS for op in graph.ops):
        _Turner(graph).turn()
        graph.tidy()


class _Turner:
    """Goes through a graph once, and knows which images it has with their channels last."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._last: dict[str, str] = {}

    def turn(self) -> None:
        graph = self._graph
        ops, graph.ops = graph.ops, []
        for op in ops:
            if op.kind in CONVOLUTIONS:
                self._convolution(op)
            elif not (op.kind == "elementwise" and self._elementwise(op)) and not (
                op.kind == "reduce" and self._reduce(op)
            ):
                graph.ops.append(op)

    def _convolution(self, op: Op) -> None:
        graph = self._graph
        if op.kind == "conv filters":
            op.inputs = [self._turned(name) for name in op.inputs]
            graph.ops.append(op)
            return
        image, filters, *bias = op.inputs
        shape = graph[filters].shape
        rows = graph.new(filters, (shape[0], size(shape[1:])), graph[filters].dtype)
        image = self._turned(image)
        view(graph, filters, rows, graph[rows].shape)
        made = graph.new(op.output, _last(graph[op.output].shape), graph[op.output].dtype)
        graph.ops.append(Op(op.kind, [image, transposed(graph, rows), *bias], [made], op.attributes))
        self._keep(op.output, made)

    def _elementwise(self, op: Op) -> bool:
        """Compute with channels last what has an input so."""
        graph, shape = self._graph, self._graph[op.output].shape
        if not any(name in self._last for name in op.inputs):
            return False
        given = [name if graph[name].size == 1 else self._broadcast(name, len(shape)) for name in op.inputs]
        made = graph.new(op.output, (), "float")
        elementwise(graph, op.attributes["operator"], given, made, graph[op.output].dtype)
        self._keep(op.output, made)
        return True

    def _broadcast(self, name: str, rank: int) -> str:
        """An input with all axes, so that they can be turned."""
        shape = self._graph[name].shape
        if len(shape) < rank:
            whole = self._graph.new(name, (*[Dim.of(1)] * (rank - len(shape)), *shape), self._graph[name].dtype)
            view(self._graph, name, whole, self._graph[whole].shape)
            name = whole
        return self._turned(name)

    def _reduce(self, op: Op) -> bool:
        """Reduce what has its channels last, if the axes that stay are in the same order."""
        (name,), axes = op.inputs, op.attributes["axes"]
        if name not in self._last:
            return False
        graph = self._graph
        rank = len(graph[name].shape)
        if 1 not in axes and axes & set(range(2, rank)) != set(range(2, rank)):
            return False
        made = graph.new(op.output, (), graph[name].dtype)
        places = {0: 0, 1: rank - 1} | {axis: axis - 1 for axis in range(2, rank)}
        reduced(graph, op.attributes["reduction"], self._last[name], {places[axis] for axis in axes}, made, keep=False)
        view(graph, made, op.output, graph[op.output].shape)
        return True

    def _turned(self, name: str) -> str:
        """An image with its channels last."""
        if name not in self._last:
            graph, shape = self._graph, self._graph[name].shape
            self._last[name] = graph.new(name, _last(shape), graph[name].dtype)
            strided(graph, name, self._last[name], _last(shape), list(_last(tuple(strides(shape)))))
        return self._last[name]

    def _keep(self, name: str, made: str) -> None:
        """Know a result with its channels last, and copy it for those who read it with the channels first."""
        self._last[name] = made
        graph, own = self._graph, strides(self._graph[made].shape)
        strided(graph, made, name, graph[name].shape, [own[0], own[-1], *own[1:-1]])


def _last(shape: Dims) -> Dims:
    return (shape[0], *shape[2:], shape[1])
