"""MSR with the sharing destroyed: the same k, but a U that is held: only its start and the inner rates are learned.

What MSR gains over these is owed to what U learned, not to how few numbers adapt.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import MAML, MSR
from msr_runtime.meta.symmetry.reparameterize import FullSymmetry
from msr_runtime.meta.training.checkpoint import load_checkpoint
from msr_runtime.task import Loss, Shape


class RandomSharing(MSR):
    """U stays at its random start, so that every weight, adapted or not, lies in its few directions."""

    name = "msr, U random"

    def __init__(self, config: LearnerConfig, inputs: Shape, outputs: Shape, loss: Loss) -> None:
        super().__init__(config, inputs, outputs, loss)
        _hold(self.network)


class PermutedSharing(RandomSharing):
    """U is a trained one whose rows are permuted: the same columns' spread, another sharing."""

    name = "msr, U permuted"
    trained: Path

    def __init__(self, config: LearnerConfig, inputs: Shape, outputs: Shape, loss: Loss) -> None:
        super().__init__(config, inputs, outputs, loss)
        self.network.load_state_dict(load_checkpoint(self.trained).learner.network.state_dict())
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for symmetry in _symmetries(self.network):
                symmetry.U.copy_(symmetry.U[torch.randperm(len(symmetry.U), generator=generator)])


class AnchoredSymmetry(FullSymmetry):
    """`W = W0 + reshape(U v)`: the start is free, and only what adapts is confined to U's directions."""

    def __init__(self, weight: Tensor, filters: int) -> None:
        super().__init__(torch.zeros_like(weight), filters)  # no column along the weight: all directions are random
        self.W0 = nn.Parameter(weight.detach().clone())

    def forward(self, v: Tensor) -> Tensor:
        """Filter parameters v `(k,)` to the layer's weight."""
        return self.W0 + super().forward(v)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The start of v: zero, because W0 is the replaced weight."""
        return weight.new_zeros(self.U.shape[1])


class AnchoredSharing(MAML):
    """A plain network, meta-learned whole, that adapts along k random directions of each weight.

    The milder control: it starts where MAML may, so that it can only fail by what its adaptation shares.
    """

    name = "msr, W0 free, U random"

    def build_network(self) -> nn.Module:
        """Return the plain network with every tensor anchored and every U held."""
        network = super().build_network()
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        for layer in layers:
            for name in ("weight", "bias"):
                symmetry = AnchoredSymmetry(getattr(layer, name), self.config.filters)
                parametrize.register_parametrization(layer, name, symmetry, unsafe=True)
        _hold(network)
        return network


def random_sharing() -> type[Learner]:
    """Return the class of a control; a function, so that a worker process can be handed it."""
    return RandomSharing


def anchored_sharing() -> type[Learner]:
    """Return the class of the milder control."""
    return AnchoredSharing


def permuted_sharing(trained: Path) -> type[Learner]:
    """Return the class of the control that belongs to one trained run."""
    return type("PermutedSharing", (PermutedSharing,), {"trained": trained})


def controls(trained: Path) -> dict[str, partial[type[Learner]]]:
    """Name the controls that belong to a trained MSR run."""
    return {
        AnchoredSharing.name: partial(anchored_sharing),
        RandomSharing.name: partial(random_sharing),
        PermutedSharing.name: partial(permuted_sharing, trained),
    }


def _symmetries(network: nn.Module) -> list[FullSymmetry]:
    return [module for module in network.modules() if isinstance(module, FullSymmetry)]


def _hold(network: nn.Module) -> None:
    for symmetry in _symmetries(network):
        symmetry.U.requires_grad_(False)
