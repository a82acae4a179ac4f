"""A learner: a network, which tensors of it the inner loop moves, and at which rates.

The methods in `learners.py` are small subclasses; a learner of your own is another, passed to the trainer as a class.
"""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call

from msr_runtime.errors import TrainingError
from msr_runtime.meta.equivariant import mlp_actions
from msr_runtime.meta.forms import Symmetry
from msr_runtime.meta.inner import Tensors
from msr_runtime.meta.network import NETWORKS, NetworkName
from msr_runtime.meta.rules import LOSSES, GaussNewton, GradientSteps, Ridge, Rule
from msr_runtime.meta.symmetry import Form, reparameterize
from msr_runtime.task import Group, Loss, Shape

RuleName = Literal["gradient", "gauss-newton", "ridge"]


class LearnerConfig(BaseModel):
    """The size of a network and of its inner loop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkName = "mlp"
    """`mlp`, `conv` for convolutions of 3 x 3 (of width 3 on signals), or `local`, the same filters without sharing."""
    width: PositiveInt = 64
    """Units, or channels, in each hidden layer."""
    depth: NonNegativeInt = 3
    """Hidden layers; with 0 the network is one linear layer, or one convolution."""
    bias: bool = True
    """Give the layers biases."""
    rule: RuleName = "gradient"
    """How the support moves what adapts: `gradient` steps, `gauss-newton` steps, or `ridge`, which is exact in one step
    where the network is linear in what adapts."""
    inner_steps: PositiveInt = 5
    """Steps on the support set; `ridge` takes one."""
    inner_rate: PositiveFloat = 0.1
    """Where the learned inner rates start: how far a weight moves for a unit of its gradient (rule `gradient` only)."""
    step_rates: bool = False
    """Learn the rates of each inner step by themselves (rule `gradient` only)."""
    damping: PositiveFloat | None = None
    """Where the learned damping starts, in squared errors: by default 0.3 for rule `gauss-newton`, which takes the
    network for linear, and 0.001 for `ridge`, for which it is."""
    first_order: bool = False
    """Treat what the inner loop differentiates as constant in the outer loop."""
    filters: PositiveInt = 64
    """k, the filter parameters of each tensor (reparameterized networks only)."""
    form: Form = "full"
    """The form of the symmetry matrix (reparameterized networks only)."""
    terms: PositiveInt = 1
    """Kronecker terms, if the form is `kronecker` (reparameterized networks only)."""
    reparameterized: bool = False
    """Put a symmetry matrix behind every weight, whatever adapts; MSR is MAML on such a network."""
    context: PositiveInt = 32
    """The length of the context vector (CAVIA only)."""


class Learner(nn.Module):
    """A network, the tensors of it that adapt, and the rule by which the support moves them.

    All arrays are in normalised units.

    Args:
        config: The network and its inner loop.
        inputs: The shape of a sample's x.
        outputs: The shape of a sample's y; for classes `(classes,)`, the shape of its scores.
        loss: The loss of inner and outer loop.
        group: What acts on x and y, as matrices on samples flattened; wanted by the form `equivariant` alone.

    Raises:
        TrainingError: no such network leads from the inputs to the outputs, or it cannot be reparameterized so.

    """

    name: ClassVar[str]
    """The method's name on the command line and in tables."""

    def __init__(
        self, config: LearnerConfig, inputs: Shape, outputs: Shape, loss: Loss, group: Group | None = None
    ) -> None:
        super().__init__()
        self.config, self.inputs, self.outputs = config, inputs, outputs
        self.loss: Loss = loss
        self.group = group
        self.classifies = loss == "cross_entropy"
        self.network = self.build_network()
        if config.reparameterized:
            if config.network == "local":
                raise TrainingError(
                    f"network 'local' cannot be reparameterized, as method '{self.name}' would have it: a symmetry "
                    "matrix that may share what it likes is had behind a layer of network 'mlp' or 'conv'"
                )
            self._reparameterize()
        self.adapted_names = self.choose_adapted()
        self.rule = self.build_rule()

    def build_network(self) -> nn.Module:
        """Return the plain network; CAVIA and ProtoNets override this."""
        config = self.config
        return NETWORKS[config.network](self.inputs, self.outputs, config.width, config.depth, bias=config.bias)

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the names of the tensors that the inner loop moves: here all but the symmetry matrices."""
        # A bias that a group wants to be zero is a parameter without a gradient, and stays zero.
        names = [name for name, parameter in self.network.named_parameters() if parameter.requires_grad]
        return tuple(name for name in names if name.endswith(".original") or ".parametrizations." not in name)

    def build_rule(self) -> Rule | None:
        """Return the configured rule for the adapted tensors, or None for a method that writes its own `adapt`."""
        config, names = self.config, self.adapted_names
        damping = {} if config.damping is None else {"damping": config.damping}
        if config.rule == "ridge":
            return Ridge(names, **damping, first_order=config.first_order)
        if config.rule == "gauss-newton":
            return GaussNewton(names, config.inner_steps, **damping, first_order=config.first_order)
        rates = {name: self.first_rate(name) for name in names}
        return GradientSteps(rates, config.inner_steps, per_step=config.step_rates, first_order=config.first_order)

    def first_rate(self, name: str) -> float:
        """Return the rate at which an adapted tensor starts: v's so that the weight moves as far as configured."""
        if not name.endswith(".original"):
            return self.config.inner_rate
        symmetry = self.network.get_submodule(name.removesuffix("original") + "0")
        assert isinstance(symmetry, Symmetry)
        return self.config.inner_rate / symmetry.gain()

    def _reparameterize(self) -> None:
        """Put a symmetry matrix behind every layer; equivariant ones are told what the group does between layers."""
        config, actions = self.config, None
        if config.form == "equivariant" and self.group is None:
            raise TrainingError(
                "form 'equivariant' needs the group's matrices, but there are none: the family has no group() that "
                "gives them; add one, or take another form"
            )
        try:
            if config.form == "equivariant" and self.group is not None:
                actions = mlp_actions(self.network, self.group)
            reparameterize(self.network, filters=config.filters, form=config.form, terms=config.terms, actions=actions)
        except ValueError as error:
            raise TrainingError(f"method '{self.name}' cannot have form '{config.form}': {error}") from error

    def start(self) -> Tensors:
        """Return the adapted tensors as every task starts from them."""
        parameters = dict(self.network.named_parameters())
        return {name: parameters[name] for name in self.adapted_names}

    def adapted_size(self) -> int:
        """Return how many numbers the inner loop moves."""
        return sum(tensor.numel() for tensor in self.start().values())

    def forward(self, adapted: Tensors, x: Tensor) -> Tensor:
        """Map x `(samples, *x)` to `(samples, *y)` with the adapted tensors in place."""
        return functional_call(self.network, adapted, (x,))

    def support_loss(self, adapted: Tensors, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of one task's samples, a scalar."""
        return LOSSES[self.loss](self(adapted, x), y)

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Tensors:
        """Run the inner loop on one task's support x `(shots, *x)` and y `(shots, *y)`; vmap gives several tasks."""
        assert self.rule is not None
        return self.rule(self.forward, self.loss, self.start(), support_x, support_y, steps)
