"""Join the pull, move and fold of a gradient step, and solve linear systems by Cholesky, the smaller of two."""

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


def solve_the_smaller_system(graph: Graph) -> None:
    """Join `(J Jᵀ + c I)⁻¹ b` and its product with J: a system of as many numbers as y has, all samples together.

    With more of them than filter parameters, `(Jᵀ J + c I)⁻¹ Jᵀ b` is the same by a smaller system.
    """
    for op in list(graph.ops):
        damped = graph.producer(op.inputs[0]) if op.kind == "solve" else None
        if damped is None or damped.attributes.get("operator") != "Add":
            continue
        gram, diagonal = (graph.producer(name) for name in damped.inputs)
        product = _only_reader(graph, op.output)
        if gram is None or gram.kind != "matmul" or not gram.attributes["tb"] or len(set(gram.inputs)) != 1:
            continue
        if diagonal is None or product is None or product.kind != "matmul" or product.inputs[1:] != gram.inputs[1:]:
            continue
        c, identity = diagonal.inputs
        if graph[c].size != 1 or not _is_identity(graph, identity) or graph[product.inputs[0]].shape[0] != 1:
            continue
        graph.ops[graph.ops.index(product)] = Op("damped", [gram.inputs[0], c, op.inputs[1]], product.outputs)
        graph.tidy()


def _only_reader(graph: Graph, name: str) -> Op | None:
    """The only operation that reads a tensor, through views."""
    while graph.alone(name):
        (reader,) = graph.readers(name)
        if reader.kind != "view":
            return reader
        name = reader.output
    return None


def _is_identity(graph: Graph, name: str) -> bool:
    """Whether a matrix is 1 where its row and its column have the same number."""
    cast = graph.producer(name)
    equal = graph.producer(cast.inputs[0]) if cast and cast.attributes.get("operator") == "Cast" else None
    if equal is None or equal.attributes.get("operator") != "Equal":
        return False
    first, second = (source(graph, each) for each in equal.inputs)
    made, size = graph.producer(first), graph[first].size
    return first == second and made is not None and made.kind == "range" and graph[name].shape == (size, size)


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
