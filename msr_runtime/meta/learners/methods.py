"""The methods: MSR, the methods that it is compared with, and two floors (methods that every other one should beat).

Each runs on a plain network, or with `reparameterized` on a network with a symmetry matrix behind every weight.
"""

from bisect import bisect_right

import torch
from torch import Tensor, nn

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.attention import Attention
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.function_encoder import FunctionEncoder
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.prototypes import OrbitPrototypes, ProtoNets
from msr_runtime.meta.learners.unused import FILTER, INNER_LOOP, refuse_unused, unused_by_rule
from msr_runtime.meta.networks.mlp import ContextMLP
from msr_runtime.meta.programs import find_program
from msr_runtime.meta.rules.gradient import SignedSteps
from msr_runtime.meta.rules.rule import Rule, Tensors
from msr_runtime.task import Group, Loss, Shape


class MAML(Learner):
    """All weights adapt, with one learned rate per tensor (Finn et al., 2017)."""

    name = "maml"


class BigMAML(MAML):
    """MAML on a wider network that has as many meta-learned numbers as MSR has with the same configuration.

    Every hidden layer is wider by the same number of units.

    It is the "MAML (Big)" of the MSR paper. The paper does not give its exact size, so the number of parameters is
    matched.
    """

    name = "maml-big"

    @classmethod
    def unused(cls, config: LearnerConfig) -> dict[str, str]:
        """Return the options that MSR does not use: it is as big as MSR."""
        return MSR.unused(cls.settled(config))

    def build_network(self) -> nn.Module:
        """Return a network of the configured depth and of the greatest widths that has no more numbers than MSR's.

        A network without hidden layers has no width and stays as it is.
        """
        # Both methods have one rate per tensor. So it is enough to match the numbers in the networks.
        wanted = _count(MSR(self.config, self.inputs, self.outputs, "mse", self.group).network)

        def build(more: int) -> nn.Module:
            return self.plain_network(self.outputs, [width + more for width in self.config.widths])

        def count(more: int) -> int:
            # The meta device makes tensors without memory: only their sizes are needed here.
            with torch.device("meta"):
                return _count(build(more))

        return build(max(0, bisect_right(range(2**20), wanted, key=count) - 1))


class ANIL(Learner):
    """Only the last layer adapts (Raghu et al., "Rapid learning or feature reuse?", 2020).

    In a network of your own, it is the module that owns the last parameter.
    """

    name = "anil"

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the names of the last layer's weight and bias, or of their filter parameters."""
        names = super().choose_adapted()
        return tuple(name for name in names if _layer(name) == _layer(names[-1]))


class MetaSGD(Learner):
    """All weights adapt. Every number has its own learned rate, of either sign (Li et al., "Meta-SGD", 2017)."""

    name = "meta-sgd"

    @classmethod
    def unused(cls, config: LearnerConfig) -> dict[str, str]:
        """Return the options of other rules and of other rates."""
        why = "it learns one rate per number, for gradient steps"
        return super().unused(config) | dict.fromkeys(("rule", "step_rates", "damping", *FILTER), why)

    def build_rule(self) -> Rule:
        """Return gradient steps with one rate per number.

        Raises:
            TrainingError: Another rule, or a rate per step, is configured.

        """
        refuse_unused(self.name, self.config, self.unused(self.config), ("rule", "step_rates"))
        starts = {name: torch.full_like(tensor, self.first_rate(name)) for name, tensor in self.start().items()}
        return SignedSteps(starts, self.config.steps, first_order=self.config.first_order)


class CAVIA(Learner):
    """Only a context vector beside the input adapts. It starts at zero (Zintgraf et al., "CAVIA", 2019)."""

    name = "cavia"
    by_newton = True

    @classmethod
    def unused(cls, config: LearnerConfig) -> dict[str, str]:
        """Return the options of other methods, and `bias`."""
        unused = super().unused(config)
        unused.pop("context")
        return unused | {"bias": "its context enters as a bias, so its layers have biases"}

    def build_network(self) -> nn.Module:
        """Return an MLP that reads the context."""
        config = self.config
        if config.network != "mlp":
            raise TrainingError(
                f"method '{self.name}' puts its context beside the input of an 'mlp', but the network is "
                f"'{config.network}'; take network 'mlp', which flattens images"
            )
        refuse_unused(self.name, config, self.unused(config), ["bias"])
        return ContextMLP(self.inputs, self.outputs, config.widths, config.context, activation=config.activation)

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the name of the context alone."""
        return ("context",)

    def start(self) -> Tensors:
        """Return a context of zeros. As in the paper, the outer loop cannot move it."""
        return {"context": torch.zeros_like(self.network.get_parameter("context"))}


class MSR(MAML):
    """MAML on a reparameterized network: v alone adapts, and U is meta-learned (Zhou et al., 2021)."""

    name = "msr"
    by_newton = True

    @classmethod
    def unused(cls, config: LearnerConfig) -> dict[str, str]:
        """Return the options that a reparameterized network does not use."""
        return super().unused(config.model_copy(update={"reparameterized": True}))

    def __init__(
        self, config: LearnerConfig, inputs: Shape, outputs: Shape, loss: Loss, group: Group | None = None
    ) -> None:
        super().__init__(config.model_copy(update={"reparameterized": True}), inputs, outputs, loss, group)


class NoAdaptation(Learner):
    """A floor: one network for all tasks, trained on the same query sets. It ignores the support set."""

    name = "no-adaptation"

    @classmethod
    def unused(cls, config: LearnerConfig) -> dict[str, str]:
        """Return the options of steps and the settings of support sets too."""
        why = "nothing adapts, and no support set is read"
        return super().unused(config) | dict.fromkeys(
            (*INNER_LOOP, "noise", "outliers", "switches", "fewest_shots"), why
        )

    def choose_adapted(self) -> tuple[str, ...]:
        """Return no names."""
        return ()

    def build_rule(self) -> None:
        """Return None."""

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Tensors:  # noqa: ARG002
        """Return no tensors."""
        return {}


class FineTuning(Learner):
    """The other floor: trained as one network for all tasks. Plain gradient steps move it only in use."""

    name = "fine-tuning"

    @classmethod
    def unused(cls, config: LearnerConfig) -> dict[str, str]:
        """Return the options of an outer loop with inner steps too. Noise is used: it disturbs the validation."""
        why = "its outer loop takes no inner steps"
        own = dict.fromkeys(("step_rates", "first_order", "fewest_shots"), why)
        return super().unused(config) | unused_by_rule(cls.settled(config)) | own

    def build_rule(self) -> Rule | None:
        """Return the configured rule with fixed numbers: its outer loop takes no steps and could not learn them.

        Raises:
            TrainingError: The rule is a filter, which is nothing without a learned prior.

        """
        if self.config.rule == "recursive":
            raise TrainingError(
                f"the rule 'recursive' needs a learned prior, but method '{self.name}' learns no numbers of its rule; "
                "set rule to 'gradient' or 'gauss-newton', or choose a method such as msr"
            )
        rule = super().build_rule()
        return None if rule is None else rule.requires_grad_(False)

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Tensors:
        """Take the inner steps in evaluation mode. In training mode, return the start."""
        return self.start() if self.training else super().adapt(support_x, support_y, steps)


def _layer(name: str) -> str:
    """The name of the module that owns an adapted tensor."""
    return name.partition(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


LEARNERS: dict[str, type[Learner]] = {
    learner.name: learner
    for learner in (
        MSR,
        MAML,
        BigMAML,
        ANIL,
        MetaSGD,
        CAVIA,
        FunctionEncoder,
        Attention,
        ProtoNets,
        OrbitPrototypes,
        NoAdaptation,
        FineTuning,
    )
}
"""Method name to its class."""


def learner_class(name: str) -> type[Learner]:
    """Return the learner called `name`: a built-in one, or one of your own (see `msr_runtime.meta.programs`).

    Raises:
        TrainingError: There is no learner of this name, or it is no subclass of `Learner`. The message lists the names.

    """
    if name in LEARNERS:
        return LEARNERS[name]
    found = find_program("method", name, LEARNERS)
    if not (isinstance(found, type) and issubclass(found, Learner)):
        raise TrainingError(
            f"method '{name}' is {found!r}, but a class that derives from `msr_runtime.meta.Learner` is wanted"
        )
    return found
