"""Gradients in the words that ONNX has: decompositions for tracing, and a traced graph without its detours.

torch writes a gradient for its own kernels. Decomposed to core operators all of it can be said in ONNX, and said
rightly: the hard-label cross entropy, exported as torch writes it, gives updates too large by the batch size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten
_RESHAPES = (aten.view.default, aten.unsqueeze.default, aten.squeeze.dims)
_ELEMENTWISE = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


def trace(function: Callable[..., Any], *arguments: Any) -> fx.GraphModule:
    """Trace `function`, gradients inside it included, into one graph of core operators.

    Args:
        function: A function of tensors, which may call `torch.func.grad`.
        arguments: Examples; an axis that is longer than 1 and is no parameter's own becomes symbolic.

    """
    # ONNX has no uninitialised memory; torch's decomposition would end in an operator that has no lowering at all.
    decompositions: dict[Any, Any] = {**core_aten_decompositions()}
    del decompositions[aten.empty_like.default]
    module = make_fx(functionalize(function), tracing_mode="symbolic", decomposition_table=decompositions)(*arguments)
    simplify(module.graph)
    module.recompile()
    return module


def simplify(graph: fx.Graph) -> None:
    """Take out, in place, the detours of a traced gradient: each would be a node that the robot runs at every step."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is aten.full_like.default:
            _fill_by_broadcast(graph, node)
        elif node.target in _RESHAPES:
            _reshape_once(graph, node)
        elif node.target is aten.permute.default:
            _cancel_transposes(node)
    graph.eliminate_dead_code()


def _fill_by_broadcast(graph: fx.Graph, node: fx.Node) -> None:
    """A tensor of one value that only meets tensors of its own shape can be a scalar that broadcasts."""
    shape = node.meta["val"].shape
    for user in node.users:
        others = [part for part in user.args if isinstance(part, fx.Node) and part is not node]
        if user.target not in _ELEMENTWISE or [getattr(other.meta["val"], "shape", None) for other in others] != [
            shape
        ]:
            return
    with graph.inserting_before(node):
        scalar = graph.call_function(aten.full.default, ([], node.args[1]), {"dtype": node.meta["val"].dtype})
    scalar.meta["val"] = node.meta["val"].new_empty(())
    node.replace_all_uses_with(scalar)


def _reshape_once(graph: fx.Graph, node: fx.Node) -> None:
    """A chain of reshapes is one reshape, or none if it ends in the shape that it began with."""
    root = node.args[0]
    while isinstance(root, fx.Node) and root.target in _RESHAPES:
        root = root.args[0]
    assert isinstance(root, fx.Node)
    value: Tensor = node.meta["val"]
    if value.shape == root.meta["val"].shape:
        node.replace_all_uses_with(root)
    elif root is not node.args[0] and all(isinstance(size, int) for size in value.shape):
        with graph.inserting_before(node):
            view = graph.call_function(aten.view.default, (root, list(value.shape)))
        view.meta["val"] = value
        node.replace_all_uses_with(view)


def _cancel_transposes(node: fx.Node) -> None:
    """Two transpositions that undo one another are none."""
    inner = node.args[0]
    if isinstance(inner, fx.Node) and inner.target is aten.permute.default:
        first, second = inner.args[1], node.args[1]
        if [first[axis] for axis in second] == list(range(len(first))):  # type: ignore[index, union-attr]
            node.replace_all_uses_with(inner.args[0])  # type: ignore[arg-type]
