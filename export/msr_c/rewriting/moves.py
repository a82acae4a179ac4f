"""What operations that only move numbers make of a tensor: for each number of a result, the place of its source."""

import numpy as np
from numpy.typing import NDArray

from msr_c.graphs.graph import Graph, Op

ZERO = -1
"""The place of a number that is 0 and comes from nowhere."""


def moved(graph: Graph, name: str, samples: int) -> tuple[str, NDArray]:
    """Return the tensor from which a tensor's numbers were only moved, and their places in it.

    Args:
        graph: The graph.
        name: The tensor.
        samples: The number of samples n. Places depend on it.
    """
    known: dict[str, tuple[str, NDArray]] = {}
    chain = [name]
    while chain:
        each = chain[-1]
        op = graph.producer(each)
        parts = op.inputs if op is not None and _moves(graph, op) else []
        missing = [part for part in parts if part not in known]
        if missing:
            chain += missing
            continue
        chain.pop()
        if each not in known:
            known[each] = _places(graph, each, op, [known[part] for part in parts], samples)
    return known[name]


def _moves(graph: Graph, op: Op) -> bool:
    constant = any(graph[name].value is not None for name in op.inputs)
    padded = op.kind == "pad" and op.attributes["value"] == 0
    return not constant and (padded or op.kind in ("view", "strided", "concat"))


def _places(
    graph: Graph, name: str, op: Op | None, parts: list[tuple[str, NDArray]], samples: int
) -> tuple[str, NDArray]:
    shape = [dim.at(samples) for dim in graph[name].shape]
    roots = {root for root, _ in parts}
    if op is None or len(roots) != 1:
        return name, np.arange(int(np.prod(shape))).reshape(shape)
    (root,), first = roots, parts[0][1]
    if op.kind == "concat":
        return root, np.concatenate([places for _, places in parts], op.attributes["axis"])
    if op.kind == "pad":
        places = np.full(shape, ZERO)
        before = op.attributes["before"]
        places[tuple(slice(low, low + size) for low, size in zip(before, first.shape, strict=True))] = first
        return root, places
    begin = op.attributes["offset"].at(samples)
    if op.kind == "view":
        return root, first.ravel()[begin : begin + int(np.prod(shape))].reshape(shape)
    chosen = np.full(shape, begin)
    for axis, (step, size) in enumerate(zip(op.attributes["strides"], shape, strict=True)):
        chosen += (np.arange(size) * step.at(samples)).reshape(-1, *[1] * (len(shape) - axis - 1))
    return root, first.ravel()[chosen]
