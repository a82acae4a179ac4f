"""Join the pull, move and fold of a gradient step, and solve linear systems by Cholesky."""

from msr_c.graphs.graph import Graph, Op
from msr_c.rewriting.symmetry import source

_SQUARINGS = 10
"""The fewest squarings by which a chain of products is known as the solver of the exporter."""


def join_steps(graph: Graph) -> None:
    """Join pull, move by constant rates and fold of one U: then a step reads U once."""
    for fold in list(graph.ops):
        if fold.kind != "fold":
            continue
        move = graph.producer(source(graph, fold.inputs[0]))
        if move is None or move.kind != "elementwise" or move.attributes["operator"] != "Sub":
            continue
        scaled = graph.producer(source(graph, move.inputs[1]))
        if scaled is None or scaled.kind != "elementwise" or scaled.attributes["operator"] != "Mul":
            continue
        rate, pulled = scaled.inputs
        if graph[rate].constant is None:
            rate, pulled = pulled, rate
        pull = graph.producer(source(graph, pulled))
        if (
            graph[rate].constant is None
            or pull is None
            or pull.kind != "pull"
            or pull.attributes["U"] != fold.attributes["U"]
        ):
            continue
        if graph[pull.inputs[0]].size.fixed is None or len(graph.readers(pull.output)) > 1:
            continue
        place = graph.ops.index(fold)
        step = Op("step", [move.inputs[0], rate, pull.inputs[0]], [move.output, fold.output], fold.attributes)
        graph.ops[place] = step
        graph.ops.remove(move)
        graph.tidy()


def solve_by_cholesky(graph: Graph) -> None:
    """Replace the exporter's solver, a chain of squared matrices, by a Cholesky factorization.

    ONNX has no solver. The chain finds x of `A x = b` for a positive definite A, of which `[A, -b]` is joined first.
    """
    for op in list(graph.ops):
        if op.kind != "strided" and op.kind != "view":
            continue
        chain = _through(graph, op.inputs[0])
        squarings = 0
        while chain is not None and chain.kind == "elementwise" and chain.attributes["operator"] == "Sub":
            product = _through(graph, chain.inputs[0])
            if product is None or product.kind != "elementwise" or product.attributes["operator"] != "Mul":
                break
            square = _through(graph, product.inputs[1])
            if square is None or square.kind != "matmul" or square.inputs[0] != square.inputs[1]:
                break
            squarings, chain = squarings + 1, _through(graph, square.inputs[0])
        if squarings < _SQUARINGS or chain is None or graph[op.output].size == graph[op.inputs[0]].size:
            continue
        joined = next((found for found in _above(graph, chain) if found.kind == "concat"), None)
        if joined is None or len(joined.inputs) != 2:
            continue
        A, minus_b = joined.inputs
        negated = _through(graph, minus_b)
        rows = graph[A].shape[0]
        if negated is None or negated.attributes.get("operator") != "Neg" or graph[op.output].size != rows:
            continue
        place = graph.ops.index(op)
        graph.ops[place] = Op("solve", [A, negated.inputs[0]], op.outputs)
        graph.tidy()


def _through(graph: Graph, name: str) -> Op | None:
    """The operation that made the numbers of a tensor, through views and cuts."""
    op = graph.producer(name)
    while op is not None and op.kind in ("view", "strided"):
        op = graph.producer(op.inputs[0])
    return op


def _above(graph: Graph, op: Op, depth: int = 4) -> list[Op]:
    """The operations that an operation needs, the nearest first."""
    found, level = [op], [op]
    for _ in range(depth):
        level = [made for each in level for name in each.inputs if (made := _through(graph, name))]
        found += level
    return found
