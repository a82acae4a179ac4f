"""The networks that learners adapt: a multilayer perceptron, one that reads a context vector, and a prototype a class.

Those of small filters are in `convolution`.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from msr_runtime.meta.convolution import ConvNet, LocalNet
from msr_runtime.task import Shape

NetworkName = Literal["mlp", "conv", "local"]


class MLP(nn.Module):
    """A multilayer perceptron with SiLU between its layers: x `(samples, *inputs)` to `(samples, *outputs)`.

    Samples of several axes are flattened, and made, in C order. Weights start with He's variance and biases at zero
    (He et al., 2015).
    """

    def __init__(self, inputs: Shape, outputs: Shape, width: int, depth: int, *, bias: bool = True) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        sizes = [math.prod(inputs)] + [width] * depth + [math.prod(outputs)]
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
            x = nn.functional.silu(layer(x))
        y = self.layers[-1](x)
        return y.unflatten(1, self.outputs) if len(self.outputs) > 1 else y


NETWORKS: dict[NetworkName, type[MLP | ConvNet | LocalNet]] = {"mlp": MLP, "conv": ConvNet, "local": LocalNet}
"""The networks that a configuration can name; all are made of `(inputs, outputs, width, depth, bias=...)`."""


class ContextMLP(nn.Module):
    """An MLP whose input is widened by a context vector, zero at each task's start (CAVIA, Zintgraf et al., 2019)."""

    def __init__(self, inputs: Shape, outputs: Shape, width: int, depth: int, context: int) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.zeros(context))
        self.mlp = MLP((math.prod(inputs) + context,), outputs, width, depth)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(samples, *inputs)` to `(samples, *outputs)`, the same context beside every sample."""
        flat = x.flatten(1)
        return self.mlp(torch.cat([flat, self.context.expand(flat.shape[0], -1)], dim=1))


class PrototypeNetwork(nn.Module):
    """Scores classes by the negative squared distance of an embedding to each one's prototype (Snell et al., 2017)."""

    def __init__(self, embedding: nn.Module, classes: int, width: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.zeros(classes, width))
        self.embedding = embedding

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(samples, *inputs)` to scores `(samples, classes)`."""
        return -(self.embedding(x).unsqueeze(-2) - self.prototypes).square().sum(-1)
