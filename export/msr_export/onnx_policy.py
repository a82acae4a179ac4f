"""A policy that is there as an ONNX file, as a torch module: to meta-train it from what it computes.

Only the operators of common policies are read: layers, activations, arithmetic and changes of shape. Layers become
`torch.nn.Linear` and `torch.nn.Conv1d` or `Conv2d`, so that a symmetry matrix can be put behind them.
"""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper
from torch import Tensor, nn

from msr_runtime.errors import ExportError


class _Step(NamedTuple):
    """One operator: a function of the values by these names, and the name of its result."""

    run: Callable[..., Tensor]
    inputs: tuple[str, ...]
    output: str


class _WithConstant(nn.Module):
    """A function of a value and a constant. The constant is a buffer: an export and a checkpoint must find it."""

    constant: Tensor

    def __init__(self, function: Callable[..., Tensor], constant: Tensor, *, first: bool) -> None:
        super().__init__()
        self._function, self._first = function, first
        self.register_buffer("constant", constant)

    def forward(self, x: Tensor) -> Tensor:
        constant = self.constant.to(x)
        return self._function(constant, x) if self._first else self._function(x, constant)


class OnnxPolicy(nn.Module):
    """The module that `load_onnx` returns. Its layers are `layers.0`, `layers.1` and so on, in the file's order.

    Numbers that are no layer's, such as those of a normalization, are the buffers `constants.0.constant` and so on.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            graph = onnx.load(path).graph
        except (DecodeError, OSError, ValueError) as error:  # also weights in a second file that is not there
            raise ExportError(
                f"ONNX file '{path}' cannot be read ({type(error).__name__}: {error}); the likely cause is another "
                "kind of file, one that was cut, or weights beside it (.data) that were not copied: export it again"
            ) from error
        self._constants = {part.name: _tensor(part) for part in graph.initializer}
        inputs = [part.name for part in graph.input if part.name not in self._constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ExportError(
                f"ONNX file '{path}' has the inputs {', '.join(inputs)} and {len(graph.output)} outputs, but one input "
                "and one output are wanted, with the samples on their first axis; export the policy alone, without its "
                "value function, and recurrent states not as inputs"
            )
        self._input, self._output = inputs[0], graph.output[0].name
        self.layers, self.constants, self._steps = nn.ModuleList(), nn.ModuleList(), list[_Step]()
        for node in _with_biases(graph):
            attributes = {part.name: helper.get_attribute_value(part) for part in node.attribute}
            if node.op_type == "Constant":
                self._constants[node.output[0]] = _tensor(attributes["value"])
                continue
            self._steps.append(_Step(self._read(path, node, attributes), *self._ends(node)))

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(samples, ...)` to the file's output."""
        values = {self._input: x}
        for run, inputs, output in self._steps:
            values[output] = run(*(values[name] for name in inputs))
        return values[self._output]

    def _ends(self, node: onnx.NodeProto) -> tuple[tuple[str, ...], str]:
        return tuple(name for name in node.input if name and name not in self._constants), node.output[0]

    def _read(self, path: Path, node: onnx.NodeProto, attributes: dict[str, Any]) -> Callable[..., Tensor]:
        """The function of a node's inputs that are not constants."""
        constants = [self._constants.get(name) for name in node.input]
        if node.op_type in _LAYERS and constants[1] is not None:
            layer = _LAYERS[node.op_type](constants, attributes)
            if layer is not None:
                self.layers.append(layer)
                return layer
        if node.op_type in _ARITHMETIC:
            return self._arithmetic(_ARITHMETIC[node.op_type], *constants)
        if node.op_type in _FUNCTIONS and constants[0] is None:
            return _FUNCTIONS[node.op_type](constants, attributes)
        raise ExportError(
            f"ONNX file '{path}' has the operation {node.op_type} (node '{node.name or node.output[0]}', attributes "
            f"{attributes}), which is not read in this form; read are {', '.join(sorted(_KNOWN))}: load the policy in "
            "the library that trained it, and return its torch module"
        )

    def _arithmetic(
        self, function: Callable[..., Tensor], first: Tensor | None, second: Tensor | None
    ) -> Callable[..., Tensor]:
        """A function of two values of which one may be a constant."""
        constant = second if first is None else first
        if constant is None:
            return function
        self.constants.append(_WithConstant(function, constant, first=first is not None))
        return self.constants[-1]


def load_onnx(path: str | PathLike[str]) -> OnnxPolicy:
    """Read a policy from an ONNX file, as a torch module with the file's weights.

    Args:
        path: The file: one input and one output, with the samples on their first axis.

    Raises:
        ExportError: It is missing or damaged, or has an operation that is not read. The message names it.

    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"there is no ONNX file '{path}' (looked for {path.resolve()}); correct the path")
    return OnnxPolicy(path)


def _with_biases(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The operators, with a constant that is added to a product of matrices as its bias, which can then be learned."""
    nodes, constants = list(graph.node), {part.name: part for part in graph.initializer}
    readers = [name for node in nodes for name in node.input] + [part.name for part in graph.output]
    products = {node.output[0]: node for node in nodes if node.op_type == "MatMul" and node.input[1] in constants}
    for add in [node for node in nodes if node.op_type == "Add"]:
        product = next((name for name in add.input if name in products), "")
        bias = next((name for name in add.input if name in constants), "")
        if not product or not bias or readers.count(product) > 1:
            continue
        matmul = products[product]
        if list(constants[bias].dims) == list(constants[matmul.input[1]].dims[1:]):
            nodes[nodes.index(matmul)] = helper.make_node("MatMul", [*matmul.input, bias], add.output, matmul.name)
            nodes.remove(add)
    return nodes


def _tensor(part: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(part).copy())


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with a weight `(out, in)`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.expand(weight.shape[0]).clone())
    return layer


def _gemm(constants: list[Tensor | None], attributes: dict[str, Any]) -> nn.Module | None:
    _, weight, *rest = constants
    if attributes.get("transA") or weight is None or (rest and rest[0] is None):
        return None
    weight = attributes.get("alpha", 1.0) * (weight if attributes.get("transB") else weight.mT)
    return _linear(weight, attributes.get("beta", 1.0) * rest[0] if rest and rest[0] is not None else None)


def _matmul(constants: list[Tensor | None], _attributes: dict[str, Any]) -> nn.Module | None:
    weight, *bias = constants[1:]
    return _linear(weight.mT, bias[0] if bias else None) if weight is not None and weight.ndim == 2 else None


def _convolution(constants: list[Tensor | None], attributes: dict[str, Any]) -> nn.Module | None:
    _, weight, *rest = constants
    axes = 0 if weight is None else weight.ndim - 2
    pads = attributes.get("pads", [0] * 2 * axes)
    plain = attributes.get("auto_pad", b"NOTSET") == b"NOTSET" and pads[:axes] == pads[axes:]
    if weight is None or axes not in (1, 2) or not plain or (rest and rest[0] is None):
        return None
    groups = attributes.get("group", 1)
    kind: Any = nn.Conv1d if axes == 1 else nn.Conv2d
    layer = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=tuple(attributes.get("strides", [1] * axes)),
        padding=tuple(pads[:axes]),
        dilation=tuple(attributes.get("dilations", [1] * axes)),
        groups=groups,
        bias=bool(rest),
    )
    layer.weight = nn.Parameter(weight)
    if rest and rest[0] is not None:
        layer.bias = nn.Parameter(rest[0])
    return layer


def _reshape(constants: list[Tensor | None], _attributes: dict[str, Any]) -> Callable[..., Tensor]:
    shape = constants[1]
    if shape is None or shape[0] > 0:
        raise ExportError("an ONNX file reshapes the samples' own axis; export the policy with a dynamic first axis")
    return lambda x: x.reshape(x.shape[0], *(size or x.shape[axis] for axis, size in enumerate(shape.tolist()[1:], 1)))


def _clip(constants: list[Tensor | None], attributes: dict[str, Any]) -> Callable[..., Tensor]:
    low, high = (None if part is None else float(part) for part in (*constants[1:], None, None)[:2])
    return lambda x: x.clamp(attributes.get("min", low), attributes.get("max", high))


def _plain(function: Callable[..., Tensor], *names: str) -> Callable[..., Callable[..., Tensor]]:
    """A function of one value, with some of the attributes as further arguments by these names."""
    return lambda _, attributes: (
        lambda x: function(x, **{name: attributes[name] for name in names if name in attributes})
    )


_LAYERS: dict[str, Callable[..., nn.Module | None]] = {"Gemm": _gemm, "MatMul": _matmul, "Conv": _convolution}
_ARITHMETIC: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
}
_FUNCTIONS: dict[str, Callable[..., Callable[..., Tensor]]] = {
    "Clip": _clip,
    "Elu": _plain(nn.functional.elu, "alpha"),
    "Flatten": lambda _, attributes: lambda x: x.flatten(attributes.get("axis", 1)),
    "Identity": _plain(lambda x: x),
    "LeakyRelu": lambda _, attributes: lambda x: nn.functional.leaky_relu(x, attributes.get("alpha", 0.01)),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Selu": _plain(nn.functional.selu),
    "Sigmoid": _plain(torch.sigmoid),
    "Softplus": _plain(nn.functional.softplus),
    "Tanh": _plain(torch.tanh),
}
_KNOWN = {*_LAYERS, *_ARITHMETIC, *_FUNCTIONS}
