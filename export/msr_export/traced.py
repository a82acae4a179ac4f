"""A module as a graph of core operators, with its parameters and buffers as constants."""

from collections.abc import Collection
from typing import Any

from torch import nn
from torch.func import functional_call

from msr_export.gradients import trace


class Traced(nn.Module):
    """A module traced into core operators, with its parameters and buffers as constants.

    Args:
        module: The module.
        arguments: Examples of its arguments by name: tensors or nests of them.
        dynamic: The names of the arguments whose first axis may have any length.

    """

    def __init__(self, module: nn.Module, arguments: dict[str, Any], dynamic: Collection[str]) -> None:
        super().__init__()
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        constants = {name: tensor.detach() for name, tensor in tensors.items()}
        # The constants are arguments of the trace: it works on tensors without data, and buffers are bound to it below.
        self.graph = trace(
            lambda constants, arguments: functional_call(module, constants, kwargs=arguments),
            constants,
            arguments,
            dynamic,
        )
        # Names of buffers may not hold dots.
        self.names = {name: f"constant_{index}" for index, name in enumerate(constants)}
        for name, constant in constants.items():
            self.register_buffer(self.names[name], constant)

    def forward(self, arguments: dict[str, Any]) -> Any:
        """Run the graph on arguments like the examples."""
        return self.graph({name: getattr(self, buffer) for name, buffer in self.names.items()}, arguments)
