"""A learner: a network, the tensors of it that the inner loop moves, and the rule that moves them.

The methods in `methods` are small subclasses. A method of your own is another subclass. The trainer takes the class.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from torch import Tensor, nn
from torch.func import functional_call

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.chosen import chosen_names
from msr_runtime.meta.learners.config import NEWTON, PLAIN, RULES, LearnerConfig
from msr_runtime.meta.learners.grid_actions import grid_actions
from msr_runtime.meta.learners.own_network import examine, freeze_statistics, is_own
from msr_runtime.meta.learners.own_rule import make_own_rule
from msr_runtime.meta.learners.unused import unused_by_network, unused_by_rule
from msr_runtime.meta.networks.registry import NETWORKS, make_network
from msr_runtime.meta.networks.written import written_out
from msr_runtime.meta.rules.gauss_newton import GaussNewton, Ridge
from msr_runtime.meta.rules.gradient import GradientSteps
from msr_runtime.meta.rules.recursive import Recursive, require_numbers
from msr_runtime.meta.rules.rule import LOSSES, Rule, Tensors
from msr_runtime.meta.symmetry.equivariant import mlp_actions
from msr_runtime.meta.symmetry.forms import Symmetry
from msr_runtime.meta.symmetry.reparameterize import reparameterize
from msr_runtime.task import Group, Loss, Shape


class Learner(nn.Module):
    """A network, the tensors of it that adapt, and the rule by which a support set moves them.

    All arrays are in normalized units.

    Args:
        config: The network and its inner loop.
        inputs: The shape of a sample's x.
        outputs: The shape of a sample's y. For classes `(classes,)`, the shape of the scores.
        loss: The loss of the inner and the outer loop.
        group: How the known group acts on flattened x and y. Needed by the form `equivariant` alone.

    Raises:
        TrainingError: No such network leads from the inputs to the outputs, or it cannot be reparameterized as asked.

    """

    name: ClassVar[str]
    """The method's name on the command line and in tables."""
    by_newton: ClassVar[bool] = False
    """Whether Gauss-Newton steps were measured to be the best rule for it, where y are numbers and x is no image."""

    def __init__(
        self, config: LearnerConfig, inputs: Shape, outputs: Shape, loss: Loss, group: Group | None = None
    ) -> None:
        super().__init__()
        config = self.settled(config, loss)
        self.config, self.inputs, self.outputs = config, inputs, outputs
        self.loss: Loss = loss
        self.group = group
        self.classifies = loss == "cross_entropy"
        self.network = self.build_network()
        self.own_network = config.network not in NETWORKS or is_own(self.network)
        # A learner with a `forward` of its own may call its network in any way.
        examined = self.own_network and type(self).forward is Learner.forward
        self.random = examine(self.network, inputs, outputs) if examined else False
        if self.own_network:
            freeze_statistics(self.network)
        if config.reparameterized:
            if config.network == "local":
                raise TrainingError(
                    f"network 'local' cannot be reparameterized, but method '{self.name}' is to be: take network 'mlp' "
                    "or 'conv', whose symmetry matrix learns what to share, or a method without a symmetry matrix"
                )
            self._reparameterize()
        self.adapted_names = chosen_names(self.choose_adapted(), config.adapt)
        self.rule = self.build_rule()

    @classmethod
    def settled(cls, config: LearnerConfig, loss: Loss = "mse") -> LearnerConfig:
        """Return a configuration that names its rule and its inner steps, by default those of this method."""
        plain = config.network == "mlp" or config.network not in NETWORKS
        newton = cls.by_newton and loss != "cross_entropy" and plain
        named = config.model_copy(update={"rule": config.rule or (NEWTON if newton else PLAIN)})
        return named.model_copy(update={"inner_steps": named.steps})

    @classmethod
    def unused(cls, config: LearnerConfig) -> dict[str, str]:
        """Return the options that this method does not use with such a configuration: name to reason.

        A learner of your own may have its own rule or `adapt`. Which options of the rule it uses is not known.
        """
        config = cls.settled(config)
        known = (cls.build_rule, cls.adapt) == (Learner.build_rule, Learner.adapt)
        unused = unused_by_network(config) | (unused_by_rule(config) if known else {})
        own = cls.choose_adapted is not Learner.choose_adapted
        return unused | ({"adapt": "the method itself says what adapts"} if own else {})

    def build_network(self) -> nn.Module:
        """Return the plain network. CAVIA and ProtoNets override this."""
        if self.config.head == "map":
            raise TrainingError(
                f"method '{self.name}' needs outputs of shape {self.outputs}, but with head 'map' a network ends in "
                "its last map; take head 'linear' or 'mean' (--learner.head), or a method of prototypes"
            )
        return self.plain_network(self.outputs, self.config.widths)

    def plain_network(self, outputs: Shape, widths: Sequence[int]) -> nn.Module:
        """Return the configured network with such outputs and widths of its hidden layers."""
        config = self.config
        options = {"bias": config.bias, "activation": config.activation, "norm": config.norm, "head": config.head}
        return make_network(config.network, self.inputs, outputs, widths, **options)

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the names of the tensors that the inner loop moves: here all but the symmetry matrices."""
        # A bias that must stay zero under its group is a parameter without a gradient: it does not adapt.
        names = [name for name, parameter in self.network.named_parameters() if parameter.requires_grad]
        return tuple(name for name in names if name.endswith(".original") or ".parametrizations." not in name)

    def build_rule(self) -> Rule | None:
        """Return the configured rule for the adapted tensors, or None for a method that writes its own `adapt`."""
        config, names = self.config, self.adapted_names
        # Without a configured damping, the rule's own default holds. Gauss-Newton linearizes the network and needs more
        # damping than ridge, whose network is linear.
        damping = {} if config.damping is None else {"damping": config.damping}
        if config.rule == "ridge":
            return Ridge(names, **damping, first_order=config.first_order)
        if config.rule == "gauss-newton":
            return GaussNewton(names, config.steps, **damping, first_order=config.first_order)
        if config.rule == "recursive":
            return self._make_filter()
        rates = {name: self.first_rate(name) for name in names}
        if config.rule not in RULES:
            return make_own_rule(config, rates)
        return GradientSteps(rates, config.steps, per_step=config.step_rates, first_order=config.first_order)

    def _make_filter(self) -> Recursive:
        """Return a filter for the adapted tensors."""
        config = self.config
        require_numbers(self.loss)
        if self.random and config.objective == "likelihood":
            raise TrainingError(
                "the likelihood of the queries needs a network that always gives the same outputs, but this network "
                "draws random numbers in training, as dropout does; set objective to 'error', or leave them out"
            )
        noise = {} if config.damping is None else {"noise": config.damping}
        return Recursive(
            self.adapted_names,
            math.prod(self.outputs),
            memory=config.memory,
            gate=config.gate,
            relinearize=config.relinearize,
            time_constant=config.time_constant,
            **noise,
            first_order=config.first_order,
        )

    def first_rate(self, name: str) -> float:
        """Return the rate at which an adapted tensor starts.

        The rate of a v is divided by U's gain, so the weight moves as far as the configured rate says.
        """
        if not name.endswith(".original"):
            return self.config.inner_rate
        symmetry = self.network.get_submodule(name.removesuffix("original") + "0")
        assert isinstance(symmetry, Symmetry)
        return self.config.inner_rate / symmetry.gain()

    def _reparameterize(self) -> None:
        """Put a symmetry matrix behind every layer. The equivariant form also needs the group's action on each, and
        the Kronecker form starts at it if there is one.
        """
        config, actions = self.config, None
        flips_and_turns = config.flips_and_turns
        if config.form == "equivariant" and config.network == "conv-grid" and flips_and_turns is None:
            raise TrainingError(
                f"method '{self.name}' is to hold a group in the filters of a 'conv-grid' network, but no flips and "
                "turns are named; name them by --learner.grid-group, such as D2 for both flips, or take another form"
            )
        if config.form == "equivariant" and self.group is None and flips_and_turns is None:
            raise TrainingError(
                "form 'equivariant' needs the group's matrices, but there are none: the family has no group() method "
                "that returns them; add one to the family, name flips and turns of images by --learner.grid-group, or "
                "take another form"
            )
        try:
            if config.form in ("equivariant", "kronecker") and flips_and_turns is not None:
                actions = grid_actions(self.network, flips_and_turns)
            elif config.form == "equivariant" and self.group is not None:
                actions = mlp_actions(self.network, self.group)
            reparameterize(self.network, filters=config.filters, form=config.form, terms=config.terms, actions=actions)
        except ValueError as error:
            raise TrainingError(f"method '{self.name}' cannot have form '{config.form}': {error}") from error

    @property
    def own(self) -> bool:
        """Whether its network, its rule or its class is not one of this package."""
        return self.own_network or not all(_built_in(type(part)) for part in (self, self.rule) if part is not None)

    @property
    def likelihood(self) -> bool:
        """Whether the outer loop learns from the likelihood of the queries: of a filter, if the objective says so."""
        return isinstance(self.rule, Recursive) and self.config.objective == "likelihood"

    def start(self) -> Tensors:
        """Return the adapted tensors at which every task starts."""
        parameters = dict(self.network.named_parameters())
        return {name: parameters[name] for name in self.adapted_names}

    def adapted_size(self) -> int:
        """Return how many numbers the inner loop moves."""
        return sum(tensor.numel() for tensor in self.start().values())

    def forward(self, adapted: Tensors, x: Tensor) -> Tensor:
        """Map x `(samples, *x)` to `(samples, *y)` with the given adapted tensors."""
        if not self.own_network:
            return functional_call(self.network, adapted, (x,))
        with written_out():
            return functional_call(self.network, adapted, (x,))

    def inner_forward(self, adapted: Tensors, x: Tensor) -> Tensor:
        """Map x as `forward` does, for the inner loop: dropout acts in the outer loop alone."""
        if not (self.random and self.training):
            return self.forward(adapted, x)
        with _evaluating(self.network):
            return self.forward(adapted, x)

    def train(self, mode: bool = True) -> "Learner":
        """Enter training or evaluation mode. Running statistics of batch normalization stay as they are in both."""
        super().train(mode)
        if self.own_network:
            freeze_statistics(self.network)
        return self

    def support_loss(self, adapted: Tensors, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss on one task's samples, a scalar."""
        return LOSSES[self.loss](self(adapted, x), y)

    def query_loss(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        """Return the outer loss of one task, a scalar: what its queries cost after it adapted to its support set.

        It is the loss of the queries, or their negative log likelihood (`likelihood`).
        """
        if not self.likelihood:
            return self.support_loss(self.adapt(support_x, support_y), query_x, query_y)
        assert isinstance(self.rule, Recursive)
        start = self.start()
        belief = self.rule.believe(self.inner_forward, self.loss, start, support_x, support_y)
        return self.rule.surprise(self.inner_forward, start, belief, query_x, query_y)

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Tensors:
        """Run the inner loop on one task.

        Args:
            support_x: `(shots, *x)`.
            support_y: `(shots, *y)`.
            steps: Inner steps; by default the rule's own number.

        Returns:
            The adapted tensors. Under `torch.func.vmap`, those of several tasks.

        """
        assert self.rule is not None
        return self.rule(self.inner_forward, self.loss, self.start(), support_x, support_y, steps)


def _built_in(kind: type) -> bool:
    return kind.__module__.startswith("msr_runtime.")


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
