"""A network that scores classes by the distance to their prototypes."""

import torch
from torch import Tensor, nn


class PrototypeNetwork(nn.Module):
    """Embeds a sample and scores each class by the negative squared distance to its prototype (Snell et al., 2017).

    Args:
        embedding: The network that maps x to a vector of length `width`.
        classes: The number of classes, and so of prototypes.
        width: The length of an embedding and of a prototype.

    """

    def __init__(self, embedding: nn.Module, classes: int, width: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.zeros(classes, width))
        self.embedding = embedding

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(samples, *inputs)` to scores `(samples, classes)`."""
        return -(self.embedding(x).unsqueeze(-2) - self.prototypes).square().sum(-1)
