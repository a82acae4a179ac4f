"""The networks that a configuration can name: the built-in ones, and those of your own."""

from collections.abc import Sequence

from torch import nn

from msr_runtime.errors import MsrError, TrainingError, line_of_users_code
from msr_runtime.meta.networks.activations import Activation
from msr_runtime.meta.networks.convolution import ConvNet, LocalNet
from msr_runtime.meta.networks.mlp import MLP
from msr_runtime.meta.programs import find_program
from msr_runtime.task import Shape

NETWORKS: dict[str, type[MLP | ConvNet | LocalNet]] = {"mlp": MLP, "conv": ConvNet, "local": LocalNet}
"""Name of a built-in network to its class. All are built with `(inputs, outputs, widths, bias=...)`."""


def make_network(
    name: str,
    inputs: Shape,
    outputs: Shape,
    widths: Sequence[int],
    *,
    bias: bool = True,
    activation: Activation = "silu",
) -> nn.Module:
    """Build the network of that name.

    Args:
        name: The name of a built-in network, or of one of your own (see `msr_runtime.meta.programs`).
        inputs: The shape of a sample's x.
        outputs: The shape of a sample's y.
        widths: Units or channels of each hidden layer.
        bias: Give the layers biases.
        activation: What stands between the layers. A network of your own is not told: it has its own.

    Raises:
        TrainingError: There is no such network, its code fails, or it is no torch module.

    """
    if name in NETWORKS:
        return NETWORKS[name](inputs, outputs, widths, bias=bias, activation=activation)
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
