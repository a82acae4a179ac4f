"""MSR with the sharing destroyed: the same k, but a U that is held, so that only v0 and the inner rates are learned.

What MSR gains over these is owed to what U learned, not to how few numbers adapt.
"""

from functools import partial
from pathlib import Path

import torch
from torch import nn

from msr_runtime.meta.checkpoint import load_checkpoint
from msr_runtime.meta.learners import MSR, Learner
from msr_runtime.meta.symmetry import FullSymmetry


class RandomSharing(MSR):
    """U stays at its random orthonormal start."""

    name = "msr, U random"

    def build_network(self) -> nn.Module:
        """Return MSR's network with every U held."""
        network = super().build_network()
        for symmetry in _symmetries(network):
            symmetry.U.requires_grad_(False)
        return network


class PermutedSharing(RandomSharing):
    """U is a trained one whose rows are permuted: the same columns' spread, another sharing."""

    name = "msr, U permuted"
    trained: Path

    def build_network(self) -> nn.Module:
        """Return a network that starts as the trained one, its U permuted and held."""
        network = super().build_network()
        network.load_state_dict(load_checkpoint(self.trained).learner.network.state_dict())
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for symmetry in _symmetries(network):
                symmetry.U.copy_(symmetry.U[torch.randperm(len(symmetry.U), generator=generator)])
        return network


def random_sharing() -> type[Learner]:
    """Return the class of the first control; a function, so that a worker process can be handed it."""
    return RandomSharing


def permuted_sharing(trained: Path) -> type[Learner]:
    """Return the class of the second control for one trained run."""
    return type("PermutedSharing", (PermutedSharing,), {"trained": trained})


def controls(trained: Path) -> dict[str, partial[type[Learner]]]:
    """Name the two controls that belong to a trained MSR run."""
    return {
        RandomSharing.name: partial(random_sharing),
        PermutedSharing.name: partial(permuted_sharing, trained),
    }


def _symmetries(network: nn.Module) -> list[FullSymmetry]:
    return [module for module in network.modules() if isinstance(module, FullSymmetry)]
