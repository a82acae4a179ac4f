"""Products of more than two matrices: in which order the C code multiplies them, for few samples and for many."""

from typing import NamedTuple

from msr_c.graphs.dims import Dim
from msr_c.graphs.graph import Graph, Op
from msr_c.graphs.orders import Order, fewest, multiplications
from msr_c.writing.memory import LINE


class Orders(NamedTuple):
    """The products of two matrices that a chain is made of."""

    few: list[Op]
    """For few samples."""
    many: list[Op]
    """For at least `limit` samples. Empty: no number of samples needs another order."""
    limit: int

    def room(self, graph: Graph, most: int) -> tuple[int, dict[str, Dim]]:
        """How many numbers the tensors made on the way need, and where each begins. Only one order runs at a time."""
        needed, begins = 0, dict[str, Dim]()
        for ops, samples in ((self.few, min(self.limit - 1, most)), (self.many, most)):
            end = 0
            for op in ops[:-1]:
                begins[op.output] = Dim.of(end)
                end += -(-graph[op.output].size.at(samples) // LINE) * LINE
            needed = max(needed, end)
        return needed, begins


def plan_chain(graph: Graph, op: Op, most: int) -> Orders:
    """Choose the orders of a chain, for at most so many samples, and add the tensors that are made on the way.

    Two orders are enough: that of one sample and that of the most. In between, another one may take somewhat fewer.
    """
    sizes = op.attributes["sizes"]

    def at(samples: int) -> list[int]:
        return [size.at(samples) for size in sizes]

    few, many = fewest(at(1)), fewest(at(most))
    fewer = (n for n in range(1, most + 1) if multiplications(many, at(n)) < multiplications(few, at(n)))
    limit = most + 1 if few == many else next(fewer, most + 1)
    return Orders(_products(graph, op, few), _products(graph, op, many) if limit <= most else [], limit)


def _products(graph: Graph, chain: Op, order: Order) -> list[Op]:
    """The products of an order, each after those that it needs; the last one makes the chain's output."""
    ops: list[Op] = []

    def add(order: Order, output: str = "") -> tuple[str, bool, int, int]:
        if isinstance(order, int):
            return chain.inputs[order], chain.attributes["turned"][order], order, order + 1
        (a, ta, first, _), (b, tb, _, end) = (add(part) for part in order)
        sizes, dtype = chain.attributes["sizes"], graph[chain.output].dtype
        name = output or graph.new("product", (sizes[first], sizes[end]), dtype)
        ops.append(Op("matmul", [a, b], [name], {"ta": ta, "tb": tb}))
        return name, False, first, end

    add(order, chain.output)
    return ops
