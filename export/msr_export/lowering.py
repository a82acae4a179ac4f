"""A module as the bytes of an ONNX model: torch's exporter writes it, and nodes that the robot does not need are
removed.
"""

import functools
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx_ir.passes.common import DeduplicateInitializersPass
from onnxscript import optimizer
from onnxscript.rewriter import MatchResult
from onnxscript.rewriter._matcher import SimplePatternMatcher
from torch import nn
from torch.export import ExportedProgram
from torch.onnx._internal.exporter._registration import ONNXRegistry

from msr_export.trimming import trim
from msr_runtime.bundle.limits import MAX_BYTES
from msr_runtime.errors import ExportError

OPSET, IR_VERSION = 18, 8
"""The versions of ONNX in which every graph is written."""
OLDEST_ONNXRUNTIME = "1.23"
"""The first ONNX Runtime that `msr_runtime` takes: 1.19 runs the graphs, but reads large constants from other files."""
_MOST_PARTS = 15
"""Of one `Split`: ONNX Runtime 1.23.0 and 1.23.1 refuse graphs in which lengths take more than 127 bytes."""


def lower(
    module: nn.Module | ExportedProgram,
    examples: dict[str, Any],
    axes: dict[str, Any],
    inputs: list[str],
    outputs: list[str],
) -> onnx.ModelProto:
    """Return a module as an ONNX model, with its parameters and buffers as constants.

    Args:
        module: A module in evaluation mode, or a traced one, whose operations all have an ONNX form.
        examples: Examples of its arguments by name: tensors or nests of them.
        axes: By the same names, the dynamic axes of the arguments, as `torch.export` takes them.
        inputs: The names of the model's inputs, in order.
        outputs: The names of the model's outputs, in order.

    Raises:
        ExportError: An operation has no ONNX form. The message names it.

    """
    try:
        with quiet(), patch.object(ONNXRegistry, "from_torchlib", staticmethod(_operators)):
            program = torch.onnx.export(
                module,
                kwargs=examples,
                dynamo=True,
                verbose=False,
                optimize=False,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=axes,
            )
            assert program is not None
            with patch.object(SimplePatternMatcher, "match", _match):
                # The transpose of U stays a node here. Folded into a constant, it would be a second U in the file.
                optimizer.optimize_ir(
                    program.model, should_fold=lambda node: False if node.op_type == "Transpose" else None
                )
            # A slice of a constant is folded once per place that uses it. Store it once.
            DeduplicateInitializersPass(size_limit=MAX_BYTES)(program.model)
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(
            f"the graph of {outputs[0]} cannot be written in ONNX: {str(error.__cause__ or error)[:300]}; most likely "
            "the learner holds a layer or a loss whose gradient has no ONNX form: replace it by basic operations"
        ) from error
    model = program.model_proto
    _absorb_transposes(model.graph)
    _pick_numbers(model.graph)
    _split_in_steps(model.graph)
    return model


_read_operators = ONNXRegistry.from_torchlib


@functools.cache
def _operators(**version: int) -> ONNXRegistry:
    """The table of ONNX operators, read once. torch would read it for every graph, in a second."""
    return _read_operators(**version)


_match_fully = SimplePatternMatcher.match
_ANOTHER = MatchResult().fail("The node is another operator.")


def _match(self: SimplePatternMatcher, model: Any, graph: Any, node: Any, **options: Any) -> MatchResult:
    """Match a node with a pattern; if they are of two operators, say so at once.

    onnxscript tries each of its rules on each node. It prepares a match, and may list the whole graph for it, before it
    compares the operators: that was a third of an export.
    """
    wanted = self.pattern.output_nodes[0].op_identifier()
    if wanted is not None and wanted != node.op_identifier():
        return _ANOTHER
    return _match_fully(self, model, graph, node, **options)


def _absorb_transposes(graph: onnx.GraphProto) -> None:
    """Let matrix products read their operands transposed.

    This removes the transpose nodes. U then is in memory once, and not a second time transposed.
    """
    turned = {node.output[0]: node.input[0] for node in graph.node if _turns(node)}
    typed = (*graph.value_info, *graph.input, *graph.output)
    matrices = {part.name for part in typed if len(part.type.tensor_type.shape.dim) == 2}
    matrices |= {part.name for part in graph.initializer if len(part.dims) == 2}
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm") or turned.keys().isdisjoint(node.input[:2]):
            continue
        if not matrices.issuperset(node.input[:2]):  # Gemm does not take stacks of matrices
            continue
        attributes = {part.name: helper.get_attribute_value(part) for part in node.attribute}
        for index, name in enumerate(("transA", "transB")):
            # Gemm has a transpose flag per operand. A second transpose undoes the first.
            if node.input[index] in turned:
                node.input[index] = turned[node.input[index]]
                attributes[name] = 1 - attributes.get(name, 0)
        node.CopyFrom(helper.make_node("Gemm", node.input, node.output, node.name, **attributes))
    used = {name for node in graph.node for name in node.input} | {part.name for part in graph.output}
    kept = [node for node in graph.node if node.output[0] in used or not _turns(node)]
    del graph.node[:]
    graph.node.extend(kept)


def _pick_numbers(graph: onnx.GraphProto) -> None:
    """Let `GatherElements` pick numbers from vectors, as a group does that shares them among the entries of a weight.

    `Gather` copies slices, and takes ten times as long where a slice is one number.
    """
    typed = (*graph.value_info, *graph.input, *graph.output)
    axes = {part.name: len(part.type.tensor_type.shape.dim) for part in typed}
    axes |= {part.name: len(part.dims) for part in graph.initializer}
    for node in graph.node:
        if node.op_type == "Gather" and [axes.get(name) for name in node.input] == [1, 1]:
            node.CopyFrom(helper.make_node("GatherElements", node.input, node.output, node.name, axis=0))


def _split_in_steps(graph: onnx.GraphProto) -> None:
    """Let a `Split` into many parts split into groups of parts first."""
    constants = {part.name: part for part in graph.initializer}
    nodes, replaced = [], set[str]()
    for node in graph.node:
        lengths = constants.get(node.input[1]) if node.op_type == "Split" and len(node.input) > 1 else None
        if lengths is None or len(node.output) <= _MOST_PARTS:
            nodes.append(node)
        else:
            axis = helper.get_node_attr_value(node, "axis")
            replaced.add(lengths.name)
            nodes += _steps(graph, node.name, node.input[0], list(node.output), numpy_helper.to_array(lengths), axis)
    del graph.node[:]
    graph.node.extend(nodes)
    for name in replaced.difference(*(node.input for node in nodes)):
        graph.initializer.remove(constants[name])


def _steps(
    graph: onnx.GraphProto, name: str, whole: str, parts: list[str], lengths: NDArray[np.int64], axis: int
) -> list[onnx.NodeProto]:
    """The nodes that split a tensor into at most `_MOST_PARTS` parts each. The graph gets their lengths."""
    if len(parts) <= _MOST_PARTS:
        graph.initializer.append(numpy_helper.from_array(lengths, f"{name}_lengths"))
        return [helper.make_node("Split", [whole, f"{name}_lengths"], parts, name, axis=axis)]
    groups = np.array_split(np.arange(len(parts)), min(_MOST_PARTS, math.ceil(len(parts) / _MOST_PARTS)))
    names = [f"{name}_{index}" for index in range(len(groups))]
    nodes = _steps(graph, name, whole, names, np.array([lengths[group].sum() for group in groups]), axis)
    for each, group in zip(names, groups, strict=True):
        nodes += _steps(graph, each, each, [parts[index] for index in group], lengths[group], axis)
    return nodes


def _turns(node: onnx.NodeProto) -> bool:
    """Whether a node transposes a matrix."""
    return node.op_type == "Transpose" and list(helper.get_attribute_value(node.attribute[0])) == [1, 0]


def encode(model: onnx.ModelProto) -> bytes:
    """The model's bytes, without what no runtime needs (see `trim`)."""
    trim(model, OPSET)
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    # Deterministic, so that the same learner gives the same bytes.
    return model.SerializeToString(deterministic=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter's notes about itself: deprecated calls inside torch, a missing torchvision, what it kept."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript.optimizer")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", message=".*The axis name: shots will not be used")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
