"""Gradients in the words that ONNX has: decompositions for tracing, and a traced graph without its detours.

torch writes a gradient for its own kernels. Decomposed to core operators all of it can be said in ONNX, and said
rightly: the hard-label cross entropy, exported as torch writes it, gives updates too large by the batch size.
"""

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
_RESHAPES = (aten.view.default, aten.unsqueeze.default, aten.squeeze.dims)
_ELEMENTWISE = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


def trace(
    function: Callable[..., Any], constants: Any, arguments: dict[str, Any], dynamic: Collection[str]
) -> fx.GraphModule:
    """Trace `function(constants, arguments)`, gradients inside it included, into one graph of core operators.

    Args:
        function: A function of tensors, which may call `torch.func.grad`.
        constants: Tensors, in any nest of dicts and tuples.
        arguments: Examples by name, tensors or nests of them.
        dynamic: The names of the arguments whose first axis, one length for all, is symbolic; all others are not.

    Raises:
        ExportError: an operation took the symbolic length for the examples' own.

    """
    mode, axis = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True), (DimDynamic.DUCK,)

    def fake(tensor: Tensor, first: tuple[DimDynamic, ...] = ()) -> Tensor:
        sizes = [*first, *[DimDynamic.STATIC] * (tensor.ndim - len(first))]
        return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))

    examples = {
        name: fake(value, axis) if name in dynamic else tree_map(fake, value) for name, value in arguments.items()
    }
    # ONNX has no uninitialised memory; torch's decomposition would end in an operator that has no lowering at all.
    decompositions: dict[Any, Any] = {**core_aten_decompositions(), **DECOMPOSITIONS}
    del decompositions[aten.empty_like.default]
    with mode, enable_python_dispatcher():
        module = make_fx(functionalize(function), decomposition_table=decompositions)(
            tree_map(fake, constants), examples
        )
    for name in dynamic:
        length = examples[name].shape[0]
        if isinstance(length, int) or length.node.expr.is_number:
            raise ExportError(
                f"the graph was traced for {int(length)} samples and holds for no other number of {name}: an operation "
                "fixes it, most likely len(x) in the network, where x.shape[0] would do, or one that torch's vmap "
                "takes for one number alone; the learner cannot be exported"
            )
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
