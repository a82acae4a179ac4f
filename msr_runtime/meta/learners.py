"""The methods: MSR, its peers, and two floors.

Each runs on a plain network or, with `reparameterized`, on one with a symmetry matrix behind every weight.
"""

from bisect import bisect_right

import torch
from torch import Tensor, nn

from msr_runtime.errors import TrainingError
from msr_runtime.meta.inner import Tensors
from msr_runtime.meta.learner import Learner, LearnerConfig
from msr_runtime.meta.network import NETWORKS, ContextMLP, PrototypeNetwork
from msr_runtime.meta.rules import Rule, SignedSteps
from msr_runtime.task import Group, Loss, Shape


class MAML(Learner):
    """All weights adapt (Finn et al., 2017), at one learned rate a tensor."""

    name = "maml"


class BigMAML(MAML):
    """MAML with a network widened until it has as many meta-learned numbers as MSR has with the same configuration.

    The paper's "MAML (Big)"; its exact size is not given there, so the number of parameters is matched.
    """

    name = "maml-big"

    def build_network(self) -> nn.Module:
        """Return a network of the configured depth and of the greatest width whose count is not above MSR's.

        A network without hidden layers has no width, and stays as it is.
        """
        # Both have one rate a tensor, so the networks' counts are what has to match.
        wanted = _count(MSR(self.config, self.inputs, self.outputs, "mse", self.group).network)

        def build(width: int) -> nn.Module:
            config = self.config
            return NETWORKS[config.network](self.inputs, self.outputs, width, config.depth, bias=config.bias)

        def count(width: int) -> int:
            with torch.device("meta"):
                return _count(build(width))

        least = self.config.width
        return build(least + max(0, bisect_right(range(least, 2**20), wanted, key=count) - 1))


class ANIL(Learner):
    """Only the last layer adapts (Raghu et al., "Rapid learning or feature reuse?", 2020)."""

    name = "anil"

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the last layer's weight and bias, or their filter parameters."""
        return tuple(name for name in super().choose_adapted() if name.startswith(f"layers.{self.config.depth}."))


class MetaSGD(Learner):
    """All weights adapt, each at its own learned rate of either sign (Li et al., "Meta-SGD", 2017)."""

    name = "meta-sgd"

    def build_rule(self) -> Rule:
        """Return gradient steps with a rate a number."""
        starts = {name: torch.full_like(tensor, self.first_rate(name)) for name, tensor in self.start().items()}
        return SignedSteps(starts, self.config.inner_steps, first_order=self.config.first_order)


class CAVIA(Learner):
    """Only a context vector beside the input adapts, from zero (Zintgraf et al., "CAVIA", 2019)."""

    name = "cavia"

    def build_network(self) -> nn.Module:
        """Return an MLP that reads the context."""
        config = self.config
        if config.network != "mlp":
            raise TrainingError(
                f"method '{self.name}' puts its context beside the input of an 'mlp', but the network is "
                f"'{config.network}'; take network 'mlp', which flattens images"
            )
        return ContextMLP(self.inputs, self.outputs, config.width, config.depth, config.context)

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the context alone."""
        return ("context",)

    def start(self) -> Tensors:
        """Return a context of zeros that the outer loop cannot move, as in the paper."""
        return {"context": torch.zeros_like(self.network.get_parameter("context"))}


class MSR(MAML):
    """MAML on a reparameterized network: only the filter parameters v adapt, U is meta-learned (Zhou et al., 2021)."""

    name = "msr"

    def __init__(
        self, config: LearnerConfig, inputs: Shape, outputs: Shape, loss: Loss, group: Group | None = None
    ) -> None:
        super().__init__(config.model_copy(update={"reparameterized": True}), inputs, outputs, loss, group)


class ProtoNets(Learner):
    """Nothing takes a step: a class is the mean of its support in a meta-learned embedding (Snell et al., 2017)."""

    name = "protonets"

    def __init__(
        self, config: LearnerConfig, inputs: Shape, outputs: Shape, loss: Loss, group: Group | None = None
    ) -> None:
        if loss != "cross_entropy":
            raise TrainingError(f"method '{self.name}' tells classes apart, but the family's loss is {loss}")
        super().__init__(config, inputs, outputs, loss, group)

    def build_network(self) -> nn.Module:
        """Return an embedding as wide as the hidden layers, and a prototype a class."""
        width, depth = self.config.width, self.config.depth
        embedding = NETWORKS[self.config.network](self.inputs, (width,), width, depth)
        return PrototypeNetwork(embedding, self.outputs[0], width)

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the prototypes alone."""
        return ("prototypes",)

    def build_rule(self) -> None:
        """Return none: prototypes are means."""

    def start(self) -> Tensors:
        """Return prototypes of zeros: no class is likelier than another."""
        return {"prototypes": torch.zeros_like(self.network.get_parameter("prototypes"))}

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Tensors:
        """Average the support's embedding by class; a class that it lacks keeps its zeros, and one step is as many."""
        if steps == 0:
            return self.start()
        assert isinstance(self.network, PrototypeNetwork)
        member = nn.functional.one_hot(support_y, self.outputs[0]).to(support_x.dtype)
        return {"prototypes": member.mT @ self.network.embedding(support_x) / member.sum(0).clamp(min=1)[:, None]}


class NoAdaptation(Learner):
    """The floor: one network for all tasks, trained on the same queries; the support is ignored."""

    name = "no-adaptation"

    def choose_adapted(self) -> tuple[str, ...]:
        """Return nothing."""
        return ()

    def build_rule(self) -> None:
        """Return none."""

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Tensors:  # noqa: ARG002
        """Return nothing."""
        return {}


class FineTuning(Learner):
    """The other floor: trained as one network for all tasks, and moved by plain gradient steps only when it is used."""

    name = "fine-tuning"

    def build_rule(self) -> Rule | None:
        """Return the configured rule with its numbers held: no outer loop could learn them."""
        rule = super().build_rule()
        return None if rule is None else rule.requires_grad_(False)

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Tensors:
        """Take the inner steps in evaluation mode; in training mode return the start."""
        return self.start() if self.training else super().adapt(support_x, support_y, steps)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


LEARNERS: dict[str, type[Learner]] = {
    learner.name: learner for learner in (MSR, MAML, BigMAML, ANIL, MetaSGD, CAVIA, ProtoNets, NoAdaptation, FineTuning)
}


def learner_class(name: str) -> type[Learner]:
    """Return the learner called `name`.

    Raises:
        TrainingError: there is none of that name; the message lists those there are.

    """
    if name not in LEARNERS:
        raise TrainingError(f"there is no method '{name}'; the methods are {', '.join(LEARNERS)}")
    return LEARNERS[name]
