"""Methods in which a class is the mean of its support samples, in an embedding that is meta-learned."""

import copy
import math
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import NEWTON, LearnerConfig
from msr_runtime.meta.learners.labels import one_hot
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.unused import INNER_LOOP, refuse_unused, unused_by_rule
from msr_runtime.meta.networks.convolution import GridConvNet
from msr_runtime.meta.networks.prototypes import OrbitPrototypeNetwork, PrototypeNetwork
from msr_runtime.meta.rules.gauss_newton import GaussNewton
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.meta.symmetry.forms import SharingSymmetry
from msr_runtime.task import Group, Loss, Shape

_TEMPERATURE = 0.1
"""Where the temperature of `OrbitPrototypes` starts, in mean squared differences per number."""
_DAMPING = 1e-6
"""Where the damping of a refinement starts. One number of a prototype changes a score by very little."""


class ProtoNets(Learner):
    """A class is the mean of its support samples in a meta-learned embedding (Snell et al., 2017).

    With the rule `gauss-newton`, steps on the support set follow. They move the prototypes, and so the borders between
    classes, which pays with several samples of each (gradient steps from class means: Triantafillou et al.,
    "Meta-Dataset", 2020). With any other rule, nothing takes a step.
    """

    name = "protonets"

    @classmethod
    def unused(cls, config: LearnerConfig) -> dict[str, str]:
        """Return `bias`, and the options of steps unless the rule is `gauss-newton`. The embedding is as wide as a
        hidden layer, also without one.
        """
        unused = super().unused(config)
        for option in ("width", "temperature"):
            unused.pop(option, None)  # the width is there only with depth 0
        if config.rule == NEWTON:
            unused |= unused_by_rule(config)
        else:
            why = f"it averages embeddings, and only the rule '{NEWTON}' takes steps from there"
            unused |= dict.fromkeys(INNER_LOOP, why)
        return unused | {"bias": "it has an embedding of its own"}

    def __init__(
        self, config: LearnerConfig, inputs: Shape, outputs: Shape, loss: Loss, group: Group | None = None
    ) -> None:
        if loss != "cross_entropy":
            raise TrainingError(
                f"method '{self.name}' tells classes apart, but the family's loss is {loss}; take a family whose loss "
                "is cross_entropy, or another method"
            )
        super().__init__(config, inputs, outputs, loss, group)
        self.refinement = None
        if self.config.rule == NEWTON:
            damping = _DAMPING if config.damping is None else config.damping
            self.refinement = GaussNewton(
                self.adapted_names, config.steps, damping=damping, first_order=config.first_order
            )

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
        """Return None: means come first. The steps that may follow are those of `refinement`."""

    def start(self) -> Tensors:
        """Return prototypes of zeros: no class is likelier than another."""
        return {name: torch.zeros_like(self.network.get_parameter(name)) for name in self.adapted_names}

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Tensors:
        """Average the embeddings of the support samples by class, and refine the means. A class without samples keeps
        its zeros.

        The result does not depend on the number of steps, if there is at least one.
        """
        return self.start() if steps == 0 else self.relearn(self.start(), support_x, support_y)

    def relearn(self, known: Tensors, support_x: Tensor, support_y: Tensor) -> Tensors:
        """Do the same, but a class without samples keeps what is known of it, up to what the refinement moves.

        Args:
            known: The adapted tensors so far.
            support_x: `(shots, *x)`.
            support_y: `(shots,)`.

        """
        assert isinstance(self.network, PrototypeNetwork | OrbitPrototypeNetwork)
        ((name, before),) = known.items()
        z = self.network.embedding(support_x)
        member = one_hot(support_y, self.outputs[0], z.dtype)
        samples = member.sum(0)[:, None]
        means = member.mT @ z / samples.clamp(min=1)
        adapted = {name: torch.where(samples > 0, means, before.reshape(means.shape)).reshape(before.shape)}
        return self._refine(adapted, z, support_y)

    def _refine(self, adapted: Tensors, z: Tensor, support_y: Tensor) -> Tensors:
        """Take the steps of `refinement` on embeddings `(shots, width)`. Without one, nothing moves."""
        if self.refinement is None:
            return adapted

        def scores(adapted: Tensors, z: Tensor) -> Tensor:
            return functional_call(self.network, adapted, (z,), {"embedded": True})

        return self.refinement(scores, self.loss, adapted, z, support_y)

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
