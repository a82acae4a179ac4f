"""Methods in which a class is the mean of its support samples, in an embedding that is meta-learned."""

import copy
import math
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.labels import one_hot
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.unused import INNER_LOOP, refuse_unused
from msr_runtime.meta.networks.convolution import GridConvNet
from msr_runtime.meta.networks.prototypes import OrbitPrototypeNetwork, PrototypeNetwork
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.meta.symmetry.forms import SharingSymmetry
from msr_runtime.task import Group, Loss, Shape

_TEMPERATURE = 0.1
"""Where the temperature of `OrbitPrototypes` starts, in mean squared differences per number."""


class ProtoNets(Learner):
    """A class is the mean of its support samples in a meta-learned embedding (Snell et al., 2017). Nothing takes a
    gradient step.
    """

    name = "protonets"

    @classmethod
    def unused(cls, config: LearnerConfig) -> dict[str, str]:
        """Return the options of steps, and `bias`. The embedding is as wide as a hidden layer, also without one."""
        unused = super().unused(config)
        for option in ("width", "temperature"):
            unused.pop(option, None)  # the width is there only with depth 0
        return unused | dict.fromkeys(("bias", *INNER_LOOP), "it averages an embedding of its own, and takes no steps")

    def __init__(
        self, config: LearnerConfig, inputs: Shape, outputs: Shape, loss: Loss, group: Group | None = None
    ) -> None:
        if loss != "cross_entropy":
            raise TrainingError(
                f"method '{self.name}' tells classes apart, but the family's loss is {loss}; take a family whose loss "
                "is cross_entropy, or another method"
            )
        super().__init__(config, inputs, outputs, loss, group)

    def build_network(self) -> nn.Module:
        """Return an embedding as wide as the last hidden layer, and one prototype per class."""
        config = self.config
        refuse_unused(self.name, config, self.unused(config), ("bias", "rule"))
        width = config.width if isinstance(config.width, int) else config.width[-1]
        embedding = self.plain_network((width,), config.widths)
        if config.head == "map":
            width = math.prod(embedding.last_map)  # type: ignore[arg-type]  # only a ConvNet has this head
        if config.temperature is None:
            return PrototypeNetwork(embedding, self.outputs[0], width)
        return OrbitPrototypeNetwork(embedding, self.outputs[0], width, 1, config.temperature)

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the name of the prototypes alone."""
        return ("prototypes",)

    def build_rule(self) -> None:
        """Return None: prototypes are means, not steps."""

    def start(self) -> Tensors:
        """Return prototypes of zeros: no class is likelier than another."""
        return {name: torch.zeros_like(self.network.get_parameter(name)) for name in self.adapted_names}

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Tensors:
        """Average the embeddings of the support samples by class. A class without samples keeps its zeros.

        The result does not depend on the number of steps, if there is at least one.
        """
        return self.start() if steps == 0 else self.relearn(self.start(), support_x, support_y)

    def relearn(self, known: Tensors, support_x: Tensor, support_y: Tensor) -> Tensors:
        """Average the embeddings of the support samples by class. A class without samples keeps what is known of it.

        Args:
            known: The adapted tensors so far.
            support_x: `(shots, *x)`.
            support_y: `(shots,)`.

        """
        assert isinstance(self.network, PrototypeNetwork | OrbitPrototypeNetwork)
        ((name, before),) = known.items()
        member = one_hot(support_y, self.outputs[0], support_x.dtype)
        samples = member.sum(0)[:, None]
        means = member.mT @ self.network.embedding(support_x) / samples.clamp(min=1)
        return {name: torch.where(samples > 0, means, before.reshape(means.shape)).reshape(before.shape)}

    def apart(self) -> tuple[nn.Module, Self]:
        """Return the embedding, and this learner of embedded samples: x `(samples, width)` in place of images.

        No support set moves the embedding. So who adapts to many support sets of the same samples embeds each once.
        """
        assert isinstance(self.network, PrototypeNetwork | OrbitPrototypeNetwork)
        rest = copy.deepcopy(self)
        rest.network.embedding = nn.Identity()
        return self.network.embedding, rest


class OrbitPrototypes(ProtoNets):
    """ProtoNets whose embedding moves as the image does, and whose classes are compared in every pose of a group.

    The embedding is the last map of filter banks that hold the group of `grid_group`: flip the image, and the map is
    flipped too, exactly. A class keeps one prototype v, the mean of its support samples. Its weights are all that the
    group makes of it, `W = reshape(U v)` with the group's action on the map as U. A query is scored by the nearest. So
    the support set needs no augmentation: what was seen in one pose is known in all.

    Sources: Snell et al., 2017 (prototypes); Cohen and Welling, "Group Equivariant Convolutional Networks", 2016.
    """

    name = "orbit-prototypes"

    @classmethod
    def unused(cls, config: LearnerConfig) -> dict[str, str]:
        """Return the options of steps, and the head: a group acts on the map."""
        unused = super().unused(_on_orbits(config))
        if config.network != "conv-grid":  # the network itself is refused, by name
            unused.pop("grid_group", None)
        return unused | {"head": "its embedding is the map", "form": "its filter banks have the form 'equivariant'"}

    def __init__(
        self, config: LearnerConfig, inputs: Shape, outputs: Shape, loss: Loss, group: Group | None = None
    ) -> None:
        if config.flips_and_turns is None:
            raise TrainingError(
                f"method '{self.name}' compares images in every pose of a group of flips and turns, but no group is "
                "named; name it by --learner.grid-group, such as D2 for both flips, or take method 'protonets'"
            )
        if config.network != "conv-grid":
            raise TrainingError(
                f"method '{self.name}' needs maps that are flipped as the image is, but the network is "
                f"'{config.network}'; take network 'conv-grid' (--learner.network)"
            )
        super().__init__(_on_orbits(config), inputs, outputs, loss, group)

    def build_network(self) -> nn.Module:
        """Return filter banks, which are not yet shared, and the orbit of each class's prototype."""
        config, group = self.config, self.config.flips_and_turns
        assert group is not None
        refuse_unused(self.name, config, self.unused(config), ("bias", "rule"))
        embedding = self.plain_network((1,), config.widths)
        assert isinstance(embedding, GridConvNet)
        width = math.prod(embedding.last_map)
        temperature = _TEMPERATURE if config.temperature is None else config.temperature
        return OrbitPrototypeNetwork(embedding, self.outputs[0], width, group.order, temperature)

    def _reparameterize(self) -> None:
        """Share the filters, and let the group make each class's prototypes of one v."""
        super()._reparameterize()
        network, group = self.network, self.config.flips_and_turns
        assert isinstance(network, OrbitPrototypeNetwork)
        assert isinstance(network.embedding, GridConvNet)
        assert group is not None
        moves = group.on_map(*network.embedding.last_map)
        orbits = np.arange(self.outputs[0])[:, None, None] * moves.shape[1] + moves
        sharing = SharingSymmetry(network.prototypes, orbits.ravel())
        # `unsafe` allows v to have another shape than the weight
        parametrize.register_parametrization(network, "prototypes", sharing, unsafe=True)

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the name of the prototypes' v alone."""
        return ("parametrizations.prototypes.original",)


def _on_orbits(config: LearnerConfig) -> LearnerConfig:
    return config.model_copy(update={"reparameterized": True, "form": "equivariant", "head": "map"})
