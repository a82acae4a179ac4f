"""Add operations to a graph: views, copies, elementwise operations and reductions, with their shapes."""

from msr_c.graphs.dims import Dim, Dims, size
from msr_c.graphs.graph import Graph, Op


def broadcast(*shapes: Dims) -> Dims:
    """Return the shape of the result of arrays that are broadcast against each other."""
    rank = max(map(len, shapes))
    padded = [(Dim.of(1),) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(next((dim for dim in dims if dim != 1), Dim.of(1)) for dims in zip(*padded, strict=True))


def strides(shape: Dims) -> list[Dim]:
    """Return how far apart in memory neighbours along each axis are."""
    return [size(shape[axis + 1 :]) for axis in range(len(shape))]


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


_TRUTHS = ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", "And", "Or", "Not")


def elementwise(graph: Graph, operator: str, inputs: list[str], output: str, dtype: str | None = None) -> None:
    """Add an elementwise operation. Without a dtype, its result has that of its last input, or is a truth value."""
    shape = broadcast(*(graph[name].shape for name in inputs))
    if dtype is None:
        dtype = "int" if operator in _TRUTHS else graph[inputs[-1]].dtype
    graph.add(output, dtype, shape)
    graph.ops.append(Op("elementwise", list(inputs), [output], {"operator": operator}))


def reduced(graph: Graph, kind: str, name: str, axes: set[int], output: str, keep: bool) -> None:
    """Add a sum, mean or extreme over axes."""
    source = graph[name]
    kept = tuple(Dim.of(1) if axis in axes else dim for axis, dim in enumerate(source.shape))
    shape = kept if keep else tuple(dim for axis, dim in enumerate(source.shape) if axis not in axes)
    if all(source.shape[axis] == 1 for axis in axes):
        view(graph, name, output, shape)
        return
    graph.add(output, source.dtype, shape)
    graph.ops.append(Op("reduce", [name], [output], {"reduction": kind, "axes": axes}))
