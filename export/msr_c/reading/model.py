"""Read an ONNX graph of a bundle: each node becomes an operation, a constant, or a size that is known for every n."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from msr_c.graphs.dims import Dim
from msr_c.graphs.graph import Graph, c_type
from msr_c.reading import operators
from msr_runtime.errors import ExportError

_SIZES: dict[str, Callable[..., NDArray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.floor_divide,
    "Cast": lambda value: value,
    "Squeeze": lambda value, axes=None: np.squeeze(value, None if axes is None else tuple(axes.tolist())),
    "Unsqueeze": lambda value, axes: np.expand_dims(value, tuple(axes.tolist())),
    "Reshape": lambda value, shape: np.reshape(value, tuple(shape.tolist())),
}
"""Operators on sizes: on arrays of `Dim`."""


def read_graph(model: bytes, name: str, samples: Dim) -> Graph:
    """Translate the bytes of an ONNX model.

    Args:
        model: The bytes, checked by the bundle.
        name: The name of the graph: that of its file, without the ending.
        samples: The length of the axes that may have any: of the samples.

    Raises:
        ExportError: If the graph has an operator that cannot be written in C.
    """
    parsed = onnx.load_from_string(model)
    if unknown := sorted({node.op_type for node in parsed.graph.node} - operators.KNOWN):
        raise ExportError(
            f"{name}.onnx has the operators {', '.join(unknown)}, which cannot be written in C; written are "
            f"{', '.join(sorted(operators.KNOWN))}. Run this bundle with ONNX Runtime, or train a network without them"
        )
    graph = Graph(name)
    for constant in parsed.graph.initializer:
        _add_constant(graph, constant.name, numpy_helper.to_array(constant))
    defaults = set(graph.tensors)
    for part in parsed.graph.input:
        dims = [samples if dim.dim_param else Dim.of(dim.dim_value) for dim in part.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(part.type.tensor_type.elem_type)
        graph.inputs.append(part.name)
        if part.name in defaults:
            del graph.tensors[part.name]
        graph.add(part.name, c_type(dtype), tuple(dims))
    graph.outputs = [part.name for part in parsed.graph.output]
    opset = parsed.opset_import
    for node in parsed.graph.node:
        _read_node(graph, node, opset)
    graph.tidy()
    return graph


def _add_constant(graph: Graph, name: str, value: NDArray) -> None:
    graph.add(name, c_type(value.dtype), value.shape, value)


def _read_node(graph: Graph, node: onnx.NodeProto, opset: Sequence[Any]) -> None:
    values = [graph[name].value if name else None for name in node.input]
    known = [value is not None or not name for name, value in zip(node.input, values, strict=True)]
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == "Constant":
        _add_constant(graph, node.output[0], numpy_helper.to_array(attributes["value"]))
    elif node.op_type == "Shape":
        shape = np.array(graph[node.input[0]].shape[attributes.get("start", 0) : attributes.get("end")], object)
        _add_sizes(graph, node.output[0], shape)
    elif all(known) and not any(value is not None and value.dtype == object for value in values):
        single = helper.make_model(
            helper.make_graph(
                [node],
                "constant",
                [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.input if name],
                [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output],
            ),
            opset_imports=opset,
        )
        given = {name: value for name, value in zip(node.input, values, strict=True) if name}
        for name, value in zip(node.output, ReferenceEvaluator(single).run(None, given), strict=True):
            _add_constant(graph, name, np.asarray(value))
    elif all(known) and (found := _sizes(node.op_type, values, attributes)) is not None:
        _add_sizes(graph, node.output[0], found)
    else:
        operators.translate(graph, node.op_type, list(node.input), list(node.output), attributes)


def _sizes(operator: str, values: list[Any], attributes: dict[str, Any]) -> NDArray | None:
    """What an operator makes of sizes; None if it makes other numbers of them."""
    values = [np.asarray(value, object) for value in values if value is not None]
    if operator == "Cast" and attributes["to"] in (TensorProto.FLOAT, TensorProto.DOUBLE):
        return None
    if operator == "Concat":
        return np.concatenate(values, attributes["axis"])
    if operator == "Gather":
        return np.asarray(np.take(values[0], values[1].astype(int), attributes.get("axis", 0)), object)
    return np.asarray(_SIZES[operator](*values), object) if operator in _SIZES else None


def _add_sizes(graph: Graph, name: str, value: NDArray) -> None:
    value = np.array([Dim.of(each) for each in value.ravel()], object).reshape(value.shape)
    fixed = [each.fixed for each in value.ravel()]
    if None not in fixed:
        value = np.array(fixed, np.int64).reshape(value.shape)
    graph.add(name, "int", value.shape, value)
