"""Gradients in operators that ONNX has: how they are traced, and how the traced graph is simplified.

torch computes many gradients with special kernels of its own. Decomposed into torch's core operators, all of them can
be written in ONNX. This is also needed for right results: the cross entropy of class labels, exported as torch writes
it, gives updates that are too large by the batch size.
"""

import functools
import math
import operator
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._pytree import tree_map

from msr_export.convolutions import DECOMPOSITIONS
from msr_runtime.errors import ExportError

aten = torch.ops.aten
# Operators that only change a shape, and operators that work entry by entry.
_RESHAPES = (aten.view.default, aten.unsqueeze.default, aten.squeeze.dims)
_ELEMENTWISE = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


def trace(
    function: Callable[..., Any], constants: Any, arguments: dict[str, Any], dynamic: Collection[str]
) -> fx.GraphModule:
    """Trace `function(constants, arguments)`, with the gradients inside it, into one graph of core operators.

    Args:
        function: A function of tensors. It may call `torch.func.grad`.
        constants: Tensors, in any nest of dicts and tuples.
        arguments: Examples by name: tensors or nests of them.
        dynamic: The names of the arguments whose first axis is symbolic. They share one length. All other axes are
            fixed.

    Returns:
        The graph, a module that is called with constants and arguments.

    Raises:
        ExportError: An operation used the examples' own number of samples in place of the symbol.

    """
    # Fake tensors have a shape but no data: the function runs without computing. DUCK makes an axis a symbol, STATIC a
    # number.
    mode, axis = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True), (DimDynamic.DUCK,)

    def fake(tensor: Tensor, first: tuple[DimDynamic, ...] = ()) -> Tensor:
        sizes = [*first, *[DimDynamic.STATIC] * (tensor.ndim - len(first))]
        return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))

    examples = {
        name: fake(value, axis) if name in dynamic else tree_map(fake, value) for name, value in arguments.items()
    }
    # `functionalize` replaces operators that write in place: ONNX has none.
    with mode, enable_python_dispatcher():
        module = make_fx(functionalize(function), decomposition_table=_decompositions())(
            tree_map(fake, constants), examples
        )
    for name in dynamic:
        # An operation that needed the number made torch replace the symbol by it, for the whole graph.
        length = examples[name].shape[0]
        if isinstance(length, int) or length.node.expr.is_number:
            raise ExportError(
                f"the graph was traced for {int(length)} samples and holds for no other number of {name}, but any "
                "number is wanted; most likely the network calls len(x), where x.shape[0] would do, or an operation "
                "that torch's vmap supports for a fixed number only: replace it, the learner cannot be exported so"
            )
    simplify(module.graph)
    module.recompile()
    return module


@functools.cache
def _decompositions() -> dict[Any, Any]:
    """Operator to what it is made of."""
    decompositions: dict[Any, Any] = {**core_aten_decompositions(), **DECOMPOSITIONS}
    # ONNX has no uninitialized memory, and torch's decomposition of `empty_like` ends in an operator that cannot be
    # written in ONNX at all.
    del decompositions[aten.empty_like.default]
    return decompositions


def simplify(graph: fx.Graph) -> None:
    """Remove unnecessary operators of a traced gradient, in place. Each would be a node that the robot runs at every
    step.
    """
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is aten.full_like.default:
            _fill_by_broadcast(graph, node)
        elif node.target in _RESHAPES:
            _reshape_once(graph, node)
        elif node.target is aten.permute.default:
            _cancel_transposes(node)
        elif node.target is aten.add.Tensor:
            _drop_zeros(node)
    for node in graph.find_nodes(op="call_function", target=aten.squeeze.dims):
        _squeeze_known_axes(graph, node)
    for node in graph.find_nodes(op="call_function", target=aten.sym_numel.default):
        _multiply_lengths(graph, node)
    _measure_once(graph)
    graph.eliminate_dead_code()


def _fill_by_broadcast(graph: fx.Graph, node: fx.Node) -> None:
    """Replace a tensor filled with one value by a scalar.

    This is allowed if the tensor only meets tensors of its own shape, because the scalar then broadcasts to the same
    result.
    """
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


def _drop_zeros(node: fx.Node) -> None:
    """Remove the addition of a tensor of zeros, which a derivative was taken by."""
    kept, zeros = node.args[:2]
    if not isinstance(kept, fx.Node) or not isinstance(zeros, fx.Node) or node.kwargs:
        return
    zero = zeros.target is aten.full.default and zeros.args[1] == 0
    if zero and (kept.meta["val"].shape, kept.meta["val"].dtype) == (node.meta["val"].shape, node.meta["val"].dtype):
        node.replace_all_uses_with(kept)


def _reshape_once(graph: fx.Graph, node: fx.Node) -> None:
    """Replace a chain of reshapes by one reshape, or by none if it ends in the shape that it began with."""
    root = node.args[0]
    while isinstance(root, fx.Node) and root.target in _RESHAPES:
        root = root.args[0]
    assert isinstance(root, fx.Node)
    value: Tensor = node.meta["val"]
    if value.shape == root.meta["val"].shape:
        node.replace_all_uses_with(root)
    # A symbolic size would have to be a node of the graph, so a reshape with one stays.
    elif root is not node.args[0] and all(isinstance(size, int) for size in value.shape):
        with graph.inserting_before(node):
            view = graph.call_function(aten.view.default, (root, list(value.shape)))
        view.meta["val"] = value
        node.replace_all_uses_with(view)


def _measure_once(graph: fx.Graph) -> None:
    """Compute each symbolic length in one place alone."""
    first: dict[str, fx.Node] = {}
    for node in graph.nodes:
        if isinstance(node.meta.get("val"), torch.SymInt):
            earlier = first.setdefault(str(node.meta["val"]), node)
            if earlier is not node:
                node.replace_all_uses_with(earlier)


def _multiply_lengths(graph: fx.Graph, node: fx.Node) -> None:
    """Replace the number of a tensor's entries by the product of its lengths. ONNX has none for it."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    shape = source.meta["val"].shape
    product: Any = math.prod(length for length in shape if isinstance(length, int))
    with graph.inserting_before(node):
        for axis, length in enumerate(shape):
            if not isinstance(length, int):
                factor = graph.call_function(aten.sym_size.int, (source, axis))
                factor.meta["val"] = length
                so_far = product.meta["val"] if isinstance(product, fx.Node) else product
                product = graph.call_function(operator.mul, (factor, product))
                product.meta["val"] = length * so_far
    node.replace_all_uses_with(product)


def _squeeze_known_axes(graph: fx.Graph, node: fx.Node) -> None:
    """Remove axes of length 1 one by one, and leave the others: what ONNX has takes one axis."""
    source, axes = node.args
    assert isinstance(source, fx.Node)
    for axis in sorted((axis % source.meta["val"].ndim for axis in axes), reverse=True):  # type: ignore[union-attr]
        value = source.meta["val"]
        if isinstance(value.shape[axis], int) and value.shape[axis] == 1:
            with graph.inserting_before(node):
                source = graph.call_function(aten.squeeze.dim, (source, axis))
            source.meta["val"] = value.squeeze(axis)
    node.replace_all_uses_with(source)


def _cancel_transposes(node: fx.Node) -> None:
    """Remove two transpositions that undo each other."""
    inner = node.args[0]
    if isinstance(inner, fx.Node) and inner.target is aten.permute.default:
        first, second = inner.args[1], node.args[1]
        if [first[axis] for axis in second] == list(range(len(first))):  # type: ignore[index, union-attr]
            node.replace_all_uses_with(inner.args[0])  # type: ignore[arg-type]
