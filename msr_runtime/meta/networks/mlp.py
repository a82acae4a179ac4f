"""A multilayer perceptron (MLP), and an MLP that also reads a context vector."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from msr_runtime.meta.networks.activations import ACTIVATIONS, Activation
from msr_runtime.task import Shape


class MLP(nn.Module):
    """A multilayer perceptron, with SiLU or another activation between its layers.

    It maps x `(samples, *inputs)` to `(samples, *outputs)`.

    Samples with several axes are flattened in C order; outputs with several axes are made in C order. Weights start
    with He's variance and biases at zero (He et al., 2015).

    Args:
        inputs: The shape of a sample's x.
        outputs: The shape of a sample's y.
        widths: Units of each hidden layer. Without hidden layers the network is one linear layer.
        bias: Give the layers biases.
        activation: What stands between the layers.

    """

    def __init__(
        self,
        inputs: Shape,
        outputs: Shape,
        widths: Sequence[int],
        *,
        bias: bool = True,
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.activation = ACTIVATIONS[activation]
        sizes = [math.prod(inputs), *widths, math.prod(outputs)]
        layers = [nn.Linear(a, b, bias=bias) for a, b in pairwise(sizes)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if bias:
                nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(samples, *inputs)` to `(samples, *outputs)`."""
        if len(self.inputs) > 1:
            x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        y = self.layers[-1](x)
        return y.unflatten(1, self.outputs) if len(self.outputs) > 1 else y


class ContextMLP(nn.Module):
    """An MLP that reads a context vector beside its input (CAVIA, Zintgraf et al., 2019).

    The context is zero at the start of each task. It is the only part that adapts.

    Args:
        inputs: The shape of a sample's x.
        outputs: The shape of a sample's y.
        widths: Units of each hidden layer.
        context: The length of the context vector.
        activation: What stands between the layers.

    """

    def __init__(
        self, inputs: Shape, outputs: Shape, widths: Sequence[int], context: int, *, activation: Activation = "silu"
    ) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.zeros(context))
        self.mlp = MLP((math.prod(inputs) + context,), outputs, widths, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(samples, *inputs)` to `(samples, *outputs)`, with the same context beside every sample."""
        flat = x.flatten(1)
        return self.mlp(torch.cat([flat, self.context.expand(flat.shape[0], -1)], dim=1))
