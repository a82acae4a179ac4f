"""A module as a program of core operators, with its parameters and buffers as constants."""

from collections.abc import Collection
from typing import Any

from torch import nn
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ArgumentSpec,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.func import functional_call
from torch.utils._pytree import tree_structure

from msr_export.gradients import trace


class Traced(ExportedProgram):
    """A module traced into core operators, with its parameters and buffers as constants.

    It is the program that `torch.export.export` would make of the traced graph. That function would trace the graph
    again, in as much time.

    Args:
        module: The module.
        arguments: Examples of its arguments by name: tensors or nests of them.
        dynamic: The names of the arguments whose first axis may have any length.

    """

    def __init__(self, module: nn.Module, arguments: dict[str, Any], dynamic: Collection[str]) -> None:
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        # The constants are arguments of the trace: it works on tensors without data. Here they become buffers again,
        # whose names may not hold dots.
        values = {f"constant_{index}": tensor.detach() for index, tensor in enumerate(tensors.values())}
        traced = trace(
            lambda constants, arguments: functional_call(module, constants, kwargs=arguments),
            dict(zip(tensors, values.values(), strict=True)),
            arguments,
            dynamic,
        )
        nodes = list(traced.graph.nodes)
        nodes[-1].args = (tuple(nodes[-1].args[0]),)
        given: list[ArgumentSpec] = [TensorArgument(node.name) for node in nodes if node.op == "placeholder"]
        results: list[ArgumentSpec] = [TensorArgument(node.name) for node in nodes[-1].args[0]]
        bound, asked = given[: len(values)], given[len(values) :]
        inputs = [InputSpec(InputKind.BUFFER, each, name, True) for name, each in zip(values, bound, strict=True)]
        inputs += [InputSpec(InputKind.USER_INPUT, each, None) for each in asked]
        outputs = [OutputSpec(OutputKind.USER_OUTPUT, each, None) for each in results]
        trees = tree_structure(((), {"arguments": arguments})), tree_structure(results)
        super().__init__(
            root=traced,
            graph=traced.graph,
            graph_signature=ExportGraphSignature(inputs, outputs),
            state_dict=values,
            range_constraints={},
            module_call_graph=[ModuleCallEntry("", ModuleCallSignature(asked, results, *trees))],
        )

    def run_decompositions(self, decomp_table: Any = None, **options: Any) -> ExportedProgram:
        """Decompose the operators that the table names, by another trace. Without such operators, none is needed."""
        left = {node.target for node in self.graph.nodes if node.op == "call_function"}
        if decomp_table is not None and left.isdisjoint(decomp_table.keys()):
            return self
        return super().run_decompositions(decomp_table, **options)
