"""Move the embedding of prototypes to where float32 computes their distances well."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from msr_export.folding import folded_weights
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.prototypes import ProtoNets
from msr_runtime.meta.networks.prototypes import OrbitPrototypeNetwork, PrototypeNetwork
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array

_ENOUGH = 256
"""Samples whose embeddings are averaged."""


def centered(learner: Learner, normalization: Normalization, inputs: Array) -> Learner:
    """Return the same learner of prototypes with an embedding whose mean is about zero; any other learner as it is.

    Distances are computed as `|z|² - 2 z.p + |p|²`. Nothing in meta-training keeps the mean of all embeddings small. If
    it is ten times as large as what tells two images apart, these terms are a hundred times as large as the distance,
    and their rounding errors too. Without the mean, which the group must leave as it is, all distances are the same.

    Args:
        learner: The learner, as in `export_bundle`.
        normalization: The normalization under which it was trained.
        inputs: Samples of x in raw units, `(samples, ...)`.

    """
    if not isinstance(learner, ProtoNets):
        return learner
    some = inputs[np.linspace(0, len(inputs) - 1, min(len(inputs), _ENOUGH)).astype(int)]
    learner = copy.deepcopy(learner)
    network = learner.network
    assert isinstance(network, PrototypeNetwork | OrbitPrototypeNetwork)
    with torch.no_grad():
        mean = network.embedding(torch.from_numpy(normalization.normalize_x(some))).mean(0)
        # as the prototype of the first class, the mean is folded into all that the group makes of it
        ((name, start),) = learner.start().items()
        v = torch.cat([mean, start.flatten()[len(mean) :]]).reshape(start.shape)
        ((_, orbits),) = folded_weights(learner, {name: v}).items()
        first = orbits[: len(orbits) // learner.outputs[0]]
    network.embedding = _Moved(network.embedding, first.mean(0))
    return learner


class _Moved(nn.Module):
    """An embedding, less a vector."""

    center: Tensor

    def __init__(self, embedding: nn.Module, center: Tensor) -> None:
        super().__init__()
        self.embedding = embedding
        self.register_buffer("center", center)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(samples, *inputs)` to `(samples, width)`."""
        return self.embedding(x) - self.center
