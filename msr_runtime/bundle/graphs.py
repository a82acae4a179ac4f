"""Check the bytes of an ONNX graph before ONNX Runtime sees them: what a bundle's graph may hold, and how large it is.

ONNX Runtime reads a constant from another file when the graph says so, and a graph may loop. Neither is in a bundle's
graph: its digest covers every number that it computes with, and its nodes run once each.

The messages below are the part of ONNX's format (onnx.proto) that the check reads. protobuf, which ONNX Runtime itself
uses, parses them, so both read the same bytes in the same way.
"""

import math
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from msr_runtime.errors import BundleError

MAX_NODES = 50_000
"""Most nodes of a graph. The largest graphs of the exporter have some hundreds."""
_DOMAINS = ("", "ai.onnx")
"""The names of ONNX's own operators. A node of another domain would need code that a bundle cannot bring."""
_ENLARGING = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}
"""Operators that make a large array of a few numbers: name to the index of the input that says how large."""
_INT64 = 7  # TensorProto.DataType
_FIELDS = {
    "Model": "graph 7 Graph, training 20 Unread*, functions 25 Unread*",
    "Graph": "nodes 1 Node*, constants 5 Tensor*, sparse 15 Unread*",
    "Node": "inputs 1 bytes*, outputs 2 bytes*, name 3 bytes, operator 4 bytes, attributes 5 Attribute*, "
    "domain 7 bytes",
    "Attribute": "tensor 5 Tensor, graph 6 Unread, ints 8 int64*, tensors 10 Tensor*, graphs 11 Unread*, "
    "sparse 22 Unread, sparses 23 Unread*",
    "Tensor": "shape 1 int64*, dtype 2 int32, int64s 7 int64*, name 8 bytes, raw 9 bytes, elsewhere 13 Unread*, "
    "location 14 int32",
    "Unread": "",
}
"""Message to its fields, each with its number in onnx.proto and its type. `*` marks a repeated field."""


def check_graph(model: bytes, largest: int, where: str) -> None:
    """Refuse a graph that a bundle must not hold.

    Args:
        model: The bytes of an ONNX model.
        largest: The most numbers that one constant may have.
        where: The name of the graph in error messages.

    Raises:
        BundleError: If the bytes are no ONNX model; if a constant lies in another file, is sparse or too large; if a
            node holds a graph of its own (Loop, If, Scan) or is not one of ONNX's operators; if the model defines
            functions; or if it has too many nodes.
    """
    try:
        parsed = _MODEL.FromString(model)
    except DecodeError as error:
        raise BundleError(
            f"{where} is refused: it is not an ONNX model ({error}); it is damaged: copy or export it again"
        ) from error
    found = "functions of its own" if parsed.functions else "a training graph" if parsed.training else None
    found = "sparse constants" if parsed.graph.sparse else found
    if len(parsed.graph.nodes) > MAX_NODES:
        found = f"{len(parsed.graph.nodes)} nodes, more than the {MAX_NODES} allowed"
    if found:
        raise _refused(where, f"holds {found}")
    constants = {}
    for constant in parsed.graph.constants:
        _check_constant(constant, largest, where)
        constants[constant.name] = constant
    for node in parsed.graph.nodes:
        named = f"node '{_text(node.name)}' ({_text(node.operator)})"
        if _text(node.domain) not in _DOMAINS:
            raise _refused(where, f"holds {named} of the domain '{_text(node.domain)}'")
        for attribute in node.attributes:
            if attribute.HasField("graph") or attribute.graphs:
                raise _refused(where, f"holds {named}, which runs a graph of its own")
            if attribute.HasField("sparse") or attribute.sparses:
                raise _refused(where, f"holds {named} with a sparse constant")
            for constant in (attribute.tensor, *attribute.tensors):
                _check_constant(constant, largest, where)
            if node.operator == b"Constant" and node.outputs:
                constants[node.outputs[0]] = attribute.tensor if attribute.HasField("tensor") else attribute
        operand = _ENLARGING.get(_text(node.operator))
        if operand is not None and operand < len(node.inputs) and node.inputs[operand] in constants:
            count = _product(_integers(constants[node.inputs[operand]]))
            if count > largest:
                raise _refused(where, f"holds {named}, which makes {count:.3g} numbers; at most {largest} are allowed")


def _check_constant(constant: Any, largest: int, where: str) -> None:
    named = f"constant '{_text(constant.name)}'"
    if constant.location or constant.elsewhere:
        raise _refused(where, f"refers to external data: {named} lies in another file")
    if (count := _product(constant.shape)) > largest:
        raise _refused(where, f"holds {named} with {count:.3g} numbers; at most {largest} are allowed")


def _integers(constant: Any) -> list[int]:
    """The entries of a constant of integers, or of a node's attribute `value_ints`."""
    if constant.DESCRIPTOR.name == "Attribute":
        return list(constant.ints)
    if constant.dtype != _INT64:
        return []
    whole = len(constant.raw) // 8 * 8
    return [*constant.int64s, *np.frombuffer(constant.raw[:whole], "<i8").tolist()]


def _product(sizes: Any) -> int:
    return math.prod(max(int(size), 1) for size in sizes)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _refused(where: str, found: str) -> BundleError:
    return BundleError(
        f"{where} is refused: it {found}, and no bundle's graph does; it was not written by `msr export`, or was "
        "changed: do not run it, and get the bundle again from its maker"
    )


def _message() -> Any:
    """Make the class that parses a model, of `_FIELDS`."""
    proto = descriptor_pb2.FieldDescriptorProto
    plain = {"bytes": proto.TYPE_BYTES, "int64": proto.TYPE_INT64, "int32": proto.TYPE_INT32}
    file = descriptor_pb2.FileDescriptorProto(name="msr_runtime/graphs.proto", package="msr_runtime", syntax="proto2")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind in map(str.split, filter(None, fields.split(", "))):
            label = proto.LABEL_REPEATED if kind.endswith("*") else proto.LABEL_OPTIONAL
            field = described.field.add(name=name, number=int(number), label=label)
            field.type = plain.get(kind.rstrip("*"), proto.TYPE_MESSAGE)
            if field.type == proto.TYPE_MESSAGE:
                field.type_name = f".msr_runtime.{kind.rstrip('*')}"
    pool = descriptor_pool.DescriptorPool()  # its own: the names cannot clash with those of another program
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("msr_runtime.Model"))


_MODEL = _message()
