"""Networks that score classes by the distance to their prototypes."""

import math

import torch
from torch import Tensor, nn

_BELOW = 20.0
"""How far the score of a class that was not taught lies below the least of all scores: a probability of 2e-9."""


class PrototypeNetwork(nn.Module):
    """Embeds a sample and scores each class by the negative squared distance to its prototype (Snell et al., 2017).

    A class whose prototype is zero was not taught: its score is below all others.

    Args:
        embedding: The network that maps x to a vector of length `width`.
        classes: The number of classes, and so of prototypes.
        width: The length of an embedding and of a prototype.

    """

    def __init__(self, embedding: nn.Module, classes: int, width: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.zeros(classes, width))
        self.embedding = embedding

    def forward(self, x: Tensor, *, embedded: bool = False) -> Tensor:
        """Map x `(samples, *inputs)`, or embeddings `(samples, width)`, to scores `(samples, classes)`."""
        z = x if embedded else self.embedding(x)
        scores = -(z.unsqueeze(-2) - self.prototypes).square().sum(-1)
        return _taught_first(scores, self.prototypes.square().sum(-1))


class OrbitPrototypeNetwork(nn.Module):
    """Scores each class by the nearest of its prototypes, softly: one for each element of a group.

    The prototypes of a class are to be what a group makes of one embedding; who builds the network says how. A sample
    that was turned or flipped is then near one of them, if the embedding moves as the sample does. With one prototype a
    class, this is prototypical networks with a learned temperature.

    A score is the logarithm of the sum, over the class's prototypes, of `exp(-d / temperature)`, where d is the mean
    squared difference between the embedding and the prototype, per number. A class whose prototypes are zero was not
    taught: its score is below all others.

    Args:
        embedding: The network that maps x to a vector of length `width`.
        classes: The number of classes.
        width: The length of an embedding and of a prototype.
        order: Prototypes of each class.
        temperature: Where the learned temperature starts.

    """

    def __init__(self, embedding: nn.Module, classes: int, width: int, order: int, temperature: float) -> None:
        super().__init__()
        self.order = order
        # no task starts from them, so that the outer loop has nothing to learn in them
        self.prototypes = nn.Parameter(torch.zeros(classes * order, width), requires_grad=False)
        self.sharpness = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.embedding = embedding

    def forward(self, x: Tensor, *, embedded: bool = False) -> Tensor:
        """Map x `(samples, *inputs)`, or embeddings `(samples, width)`, to scores `(samples, classes)`."""
        z, prototypes = x if embedded else self.embedding(x), self.prototypes
        # |z - p|² as products of matrices: the differences themselves would be `order` maps for each sample and class
        sizes = prototypes.square().mean(-1)
        squared = z.square().mean(-1, keepdim=True) + sizes
        scores = (z @ prototypes.mT * (2 / z.shape[-1]) - squared) * self.sharpness.exp()
        if self.order > 1:
            scores, sizes = scores.unflatten(-1, (-1, self.order)).logsumexp(-1), sizes.unflatten(0, (-1, self.order))
            sizes = sizes[:, 0]
        return _taught_first(scores, sizes)


def _taught_first(scores: Tensor, sizes: Tensor) -> Tensor:
    """Put the classes that were not taught below all others.

    Their prototypes are zeros, and an embedding near zero would be near them.

    Args:
        scores: `(samples, classes)`.
        sizes: The squared size of a prototype of each class, `(classes,)`; 0 where none was taught.

    """
    return torch.where(sizes > 0, scores, scores.detach().amin(-1, keepdim=True) - _BELOW)
