"""What each ONNX operator becomes: an operation of few kinds, and the shape of its result."""

from collections.abc import Callable

from msr_c.graphs.building import elementwise
from msr_c.graphs.elementwise import ELEMENTWISE
from msr_c.graphs.graph import Attributes, Graph
from msr_c.reading import arithmetic, convolutions, shapes

_REDUCTIONS = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min"}
_Translator = Callable[[Graph, list[str], list[str], Attributes], None]


def translate(graph: Graph, operator: str, inputs: list[str], outputs: list[str], attributes: Attributes) -> None:
    """Add the operation of a node to a graph."""
    if operator in ELEMENTWISE and operator != "Cast":
        elementwise(graph, operator, inputs, outputs[0])
    elif operator in _REDUCTIONS:
        arithmetic.reduce(graph, _REDUCTIONS[operator], inputs, outputs[0], attributes)
    else:
        _TRANSLATORS[operator](graph, inputs, outputs, attributes)


_TRANSLATORS: dict[str, _Translator] = {
    "Cast": arithmetic.cast,
    "Clip": arithmetic.clip,
    "Concat": shapes.concat,
    "ConstantOfShape": shapes.constant_of_shape,
    "Conv": convolutions.conv,
    "ConvTranspose": convolutions.conv_transpose,
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Gather": shapes.gather,
    "GatherElements": shapes.gather_elements,
    "Gemm": arithmetic.gemm,
    "Identity": shapes.identity,
    "LogSoftmax": arithmetic.log_softmax,
    "MatMul": arithmetic.matmul,
    "Pad": shapes.pad,
    "Pow": arithmetic.power,
    "Range": shapes.count,
    "ReduceLogSumExp": arithmetic.log_sum_exp,
    "Reshape": shapes.reshape,
    "ScatterElements": shapes.scatter_elements,
    "Slice": shapes.cut,
    "Softmax": arithmetic.softmax,
    "Split": shapes.split,
    "Squeeze": shapes.squeeze,
    "Transpose": shapes.transpose,
    "Unsqueeze": shapes.unsqueeze,
}
KNOWN = {*ELEMENTWISE, *_REDUCTIONS, *_TRANSLATORS, "Constant", "Shape"} - {"Square", "Power"}
"""The ONNX operators that can be written in C."""
