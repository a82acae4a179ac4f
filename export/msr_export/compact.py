"""Store the constants of a graph in a smaller type, where that type holds them to the last bit.

The graph computes in float32 as before, because nodes in front of it make float32 of what is stored:

    float16   Cast
    int8      Cast, Mul by the scale of each row, Reshape
    one       ConstantOfShape, of a number that fills a constant
    uint16    Cast, of places (see `tying`)

ONNX Runtime computes such nodes once, when it loads the graph. So load time, memory and time of a run stay the same.
It does not do so with `DequantizeLinear`, which it would run in every step: measured, half as much again.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from msr_export.freeze import Frozen
from msr_export.lowering import encode
from msr_runtime.bundle.rounding import as_rows
from msr_runtime.task import Array

_FEWEST, _FEWEST_PLACES = 256, 32
"""Numbers of a constant, or places, for which it is worth a node."""
_Nodes = list[onnx.NodeProto]


def compact(frozen: Frozen, lengths: Collection[int] = ()) -> Frozen:
    """Return the same graphs with smaller constants.

    Args:
        frozen: The graphs of a learner whose constants were rounded (see `rounded`).
        lengths: The lengths of rows that share a scale, if they were rounded to int8 (see `row_lengths`).

    """

    def smaller(model: Any) -> Any:
        return _compact(model, lengths) if model else model

    recursion = frozen.recursion
    if recursion:
        recursion = recursion._replace(update=smaller(recursion.update), deviation=smaller(recursion.deviation))
    return frozen._replace(
        predict=smaller(frozen.predict),
        adapt=smaller(frozen.adapt),
        loss=smaller(frozen.loss),
        sums=smaller(frozen.sums),
        recursion=recursion,
    )


def _compact(model: bytes, lengths: Collection[int]) -> bytes:
    parsed = onnx.load_from_string(model)
    graph = parsed.graph
    # The default of an input is as the input says: a caller may put another value in its place.
    inputs = {part.name for part in graph.input}
    kept, nodes, names = [], [], dict[bytes, str]()
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant)
        stored, made = [constant], []
        if constant.name not in inputs and values.dtype == np.float32 and values.size >= _FEWEST:
            stored, made = _smaller(constant.name, values, names.setdefault(values.tobytes(), constant.name), lengths)
        elif constant.name not in inputs and values.dtype == np.int64 and values.size >= _FEWEST_PLACES:
            stored, made = _short(constant.name, values)
        kept += stored or [constant]
        nodes += made
    nodes += graph.node
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return encode(parsed)


def _short(name: str, values: NDArray[np.int64]) -> tuple[list[onnx.TensorProto], _Nodes]:
    """What is stored in place of integers. Empty if two bytes do not hold them."""
    if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        return [], []
    stored = numpy_helper.from_array(values.astype(np.uint16), f"{name}_short")
    return [stored], [helper.make_node("Cast", [stored.name], [name], to=TensorProto.INT64)]


def _smaller(name: str, values: Array, first: str, lengths: Collection[int]) -> tuple[list[onnx.TensorProto], _Nodes]:
    """What is stored in place of a constant, and the nodes that make the constant of it. Empty if nothing is smaller.

    Args:
        name: The constant's name.
        values: The constant.
        first: The name of the first constant with the same numbers in the same order.
        lengths: As in `compact`.

    """
    node, shape = helper.make_node, numpy_helper.from_array(np.array(values.shape), f"{name}_shape")
    if first != name:
        return [shape], [node("Reshape", [first, shape.name], [name])]
    if len(np.unique(values.view(np.uint32))) == 1:
        number = numpy_helper.from_array(values.ravel()[:1])
        return [shape], [node("ConstantOfShape", [shape.name], [name], value=number)]
    for length in sorted(lengths, reverse=True):
        # Where some of U's axes were put together or exchanged, a row of the constant is several rows of U.
        found = as_rows(values, length) if values.shape[-1] % length == 0 else None
        if found:
            q, scales = (numpy_helper.from_array(*each) for each in zip(found, (f"{name}_q", f"{name}_s"), strict=True))
            return [q, scales, shape], [
                node("Cast", [q.name], [f"{name}_numbers"], to=TensorProto.FLOAT),
                node("Mul", [f"{name}_numbers", scales.name], [f"{name}_rows"]),
                node("Reshape", [f"{name}_rows", shape.name], [name]),
            ]
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.array_equal(half.astype(np.float32), values):
        return [], []
    stored = numpy_helper.from_array(half, f"{name}_half")
    return [stored], [node("Cast", [stored.name], [name], to=TensorProto.FLOAT)]
