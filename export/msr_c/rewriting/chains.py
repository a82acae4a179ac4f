"""Join products of more than two matrices where their order decides how long they take.

A gradient of a weight is `deltaᵀ a`, over all samples. With Kronecker factors it becomes one of v by `Fᵀ (deltaᵀ a) G`.
For few samples, `(delta F)ᵀ (a G)` takes far fewer multiplications.
"""

from msr_c.graphs.graph import Graph, Op
from msr_c.graphs.orders import Order, fewest, multiplications

_MANY = 2**20
"""So many samples that more of them change no order."""

_Factors = list[tuple[str, bool]]
"""The matrices of a product, and whether each is transposed in it."""


def join_chains(graph: Graph) -> None:
    """Replace products of products by one operation `chain`, for which the number of samples decides the order."""
    joined: set[str] = set()
    for op in reversed(list(graph.ops)):
        if not _is_plain(graph, op) or op.output in joined:
            continue
        inner: set[str] = set()
        factors, order = _unfolded(graph, op, False, 0, inner)
        joined |= inner
        shapes = [graph[name].shape[:: -1 if turned else 1] for name, turned in factors]
        sizes = (shapes[0][0], *(columns for _, columns in shapes))
        for samples in (1, _MANY):
            each = [size.at(samples) for size in sizes]
            if multiplications(fewest(each), each) < multiplications(order, each):
                attributes = {"turned": tuple(turned for _, turned in factors), "sizes": sizes}
                graph.ops[graph.ops.index(op)] = Op("chain", [name for name, _ in factors], op.outputs, attributes)
                break
    graph.tidy()


def _is_plain(graph: Graph, op: Op) -> bool:
    """Whether an operation is a product of two matrices, and nothing else."""
    two = op.kind == "matmul" and len(op.inputs) == 2 and op.inputs[0] != op.inputs[1]
    return two and all(len(graph[name].shape) == 2 for name in op.inputs)


def _unfolded(graph: Graph, op: Op, turned: bool, begin: int, inner: set[str]) -> tuple[_Factors, Order]:
    """The factors of a product, those of its factors in place of these, and the order in which the graph has them.

    Args:
        graph: The graph.
        op: The product.
        turned: Whether it is transposed.
        begin: The number of its first factor.
        inner: Gets the names of the products that are factors.

    """
    pair = list(zip(op.inputs, (op.attributes["ta"], op.attributes["tb"]), strict=True))
    if turned:
        pair = [(name, not flag) for name, flag in reversed(pair)]
    factors, orders = _Factors(), list[Order]()
    for name, flag in pair:
        made = graph.producer(name)
        if made is not None and graph.alone(name) and _is_plain(graph, made):
            inner.add(name)
            more, order = _unfolded(graph, made, flag, begin + len(factors), inner)
        else:
            more, order = [(name, flag)], begin + len(factors)
        factors += more
        orders.append(order)
    return factors, (orders[0], orders[1])
