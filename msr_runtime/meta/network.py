"""The networks that learners adapt: a plain multilayer perceptron, and one that reads a context vector."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """A multilayer perceptron with SiLU between its layers: x `(..., inputs)` to `(..., outputs)`.

    Weights start with He's variance and biases at zero (He et al., 2015).
    """

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, *, bias: bool = True) -> None:
        super().__init__()
        sizes = [inputs] + [width] * depth + [outputs]
        layers = [nn.Linear(a, b, bias=bias) for a, b in pairwise(sizes)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if bias:
                nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(..., inputs)` to `(..., outputs)`."""
        for layer in self.layers[:-1]:
            x = nn.functional.silu(layer(x))
        return self.layers[-1](x)


class ContextMLP(nn.Module):
    """An MLP whose input is widened by a context vector, zero at each task's start (CAVIA, Zintgraf et al., 2019)."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, context: int) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.zeros(context))
        self.mlp = MLP(inputs + context, outputs, width, depth)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(..., inputs)` to `(..., outputs)`, the same context beside every sample."""
        return self.mlp(torch.cat([x, self.context.expand(*x.shape[:-1], -1)], dim=-1))


class PrototypeMLP(nn.Module):
    """Scores classes by the negative squared distance of an embedding to each one's prototype (Snell et al., 2017)."""

    def __init__(self, inputs: int, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.zeros(classes, width))
        self.embedding = MLP(inputs, width, width, depth)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(..., inputs)` to scores `(..., classes)`."""
        return -(self.embedding(x).unsqueeze(-2) - self.prototypes).square().sum(-1)
