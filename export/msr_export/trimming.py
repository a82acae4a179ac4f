"""Leave out of a graph what no runtime needs: long names, notes, and attributes that have their default value.

The linear system of a Gauss-Newton step has thousands of nodes. Half of its file would be their names.
"""

import itertools
import string
from collections.abc import Iterator

import onnx
from onnx import defs

_LARGE = 512
"""Constants of so many bytes keep their names, by which they can be found in a viewer."""


def trim(model: onnx.ModelProto, opset: int) -> None:
    """Trim a model in place. Its inputs, outputs and large constants keep their names.

    Args:
        model: The model.
        opset: The version of its operators.

    """
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    fixed = {part.name for part in (*graph.input, *graph.output)}
    fixed |= {part.name for part in graph.initializer if len(part.raw_data) >= _LARGE}
    made = [part.name for part in graph.initializer] + [name for node in graph.node for name in node.output]
    free = (name for name in _names() if name not in fixed)
    short = {name: next(free) for name in dict.fromkeys(made) if name and name not in fixed}
    for constant in graph.initializer:
        constant.name = short.get(constant.name, constant.name)
    for node in graph.node:
        node.ClearField("name")
        for names in (node.input, node.output):
            names[:] = [short.get(name, name) for name in names]
        stated = defs.get_schema(node.op_type, opset, node.domain).attributes
        kept = [part for part in node.attribute if not _is_default(part, stated[part.name].default_value)]
        del node.attribute[:]
        node.attribute.extend(kept)


def _names() -> Iterator[str]:
    """All names, the shortest first: a letter, then letters and digits."""
    for length in itertools.count():
        for first in string.ascii_letters:
            for rest in itertools.product(string.ascii_letters + string.digits, repeat=length):
                yield first + "".join(rest)


def _is_default(attribute: onnx.AttributeProto, default: onnx.AttributeProto) -> bool:
    value = onnx.helper.get_attribute_value
    return attribute.type == default.type and value(attribute) == value(default)
