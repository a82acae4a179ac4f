"""The networks that a configuration can name: the built-in ones, and those of your own."""

from collections.abc import Sequence

from torch import nn

from msr_runtime.errors import MsrError, TrainingError, line_of_users_code
from msr_runtime.meta.networks.activations import Activation
from msr_runtime.meta.networks.convolution import ConvNet, GridConvNet, Head, LocalNet, Norm
from msr_runtime.meta.networks.mlp import MLP
from msr_runtime.meta.programs import find_program
from msr_runtime.task import Shape

NETWORKS: dict[str, type[MLP | ConvNet | LocalNet]] = {
    "mlp": MLP,
    "conv": ConvNet,
    "conv-grid": GridConvNet,
    "local": LocalNet,
}
"""Name of a built-in network to its class. All are built with `(inputs, outputs, widths, bias=...)`."""


def make_network(
    name: str,
    inputs: Shape,
    outputs: Shape,
    widths: Sequence[int],
    *,
    bias: bool = True,
    activation: Activation = "silu",
    norm: Norm = "none",
    head: Head = "linear",
) -> nn.Module:
    """Build the network of that name.

    Args:
        name: The name of a built-in network, or of one of your own (see `msr_runtime.meta.programs`).
        inputs: The shape of a sample's x.
        outputs: The shape of a sample's y.
        widths: Units or channels of each hidden layer.
        bias: Give the layers biases.
        activation: What stands between the layers. A network of your own is not told: it has its own.
        norm: What normalizes the hidden layers of a `ConvNet`; see there.
        head: What makes a vector of its last map; see there.

    Raises:
        TrainingError: There is no such network, its code fails, or it is no torch module; or it has no such norm or
            head.

    """
    built_in = NETWORKS.get(name)
    if built_in is not None and issubclass(built_in, ConvNet):
        return built_in(inputs, outputs, widths, bias=bias, activation=activation, norm=norm, head=head)
    for option, value, usual in (("norm", norm, "none"), ("head", head, "linear")):
        if value != usual:
            raise TrainingError(
                f"network '{name}' has no {option}, but it is set to '{value}'; leave it at '{usual}' "
                f"(--learner.{option}), or take network 'conv' or 'conv-grid'"
            )
    if built_in is not None:
        return built_in(inputs, outputs, widths, bias=bias, activation=activation)
    factory = find_program("network", name, NETWORKS)
    try:
        network = factory(inputs, outputs, tuple(widths), bias=bias)
    except MsrError:
        raise
    except Exception as error:  # whatever the user's code raises
        where = line_of_users_code(error) or "its code"
        raise TrainingError(
            f"network '{name}' was called with ({inputs}, {outputs}, {tuple(widths)}, bias={bias}), the shapes of a "
            f"sample's x and y and the widths of the hidden layers, and raised {type(error).__name__}: {error}, in "
            f"{where}; let it take these arguments and return a torch module"
        ) from error
    if not isinstance(network, nn.Module):
        raise TrainingError(
            f"network '{name}' returned a {type(network).__name__}, but a torch module (torch.nn.Module) is wanted"
        )
    return network
