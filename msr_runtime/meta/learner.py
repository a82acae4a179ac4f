"""A learner: a network, which tensors of it the inner loop moves, and at which rates.

The methods in `learners.py` are small subclasses; a learner of your own is another, passed to the trainer as a class.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call

from msr_runtime.meta.inner import Tensors, inner_loop
from msr_runtime.meta.network import MLP
from msr_runtime.meta.symmetry import Form, FullSymmetry, KroneckerSymmetry, reparameterize
from msr_runtime.task import Loss

LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": nn.functional.mse_loss,
    "huber": nn.functional.huber_loss,
    "cross_entropy": nn.functional.cross_entropy,
}


class LearnerConfig(BaseModel):
    """The size of a network and of its inner loop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: PositiveInt = 64
    """Units in each hidden layer."""
    depth: PositiveInt = 3
    """Hidden layers."""
    inner_steps: PositiveInt = 5
    """Gradient steps on the support set."""
    inner_rate: PositiveFloat = 0.1
    """Where the learned inner rates start: how far a weight moves for a unit of its gradient."""
    first_order: bool = False
    """Treat inner gradients as constants in the outer loop."""
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
    """A network, the tensors of it that adapt, and a learned inner rate for each of them.

    All arrays are in normalised units. The rate of a tensor is `softplus` of its parameter: positive without a clamp,
    which would kill the gradient of a rate that reached it.
    """

    name: ClassVar[str]
    """The method's name on the command line and in tables."""

    def __init__(self, config: LearnerConfig, inputs: int, outputs: int, loss: Loss) -> None:
        super().__init__()
        self.config, self.inputs, self.outputs = config, inputs, outputs
        self.loss = LOSSES[loss]
        self.classifies = loss == "cross_entropy"
        self.network = self.build_network()
        if config.reparameterized:
            reparameterize(self.network, filters=config.filters, form=config.form, terms=config.terms)
        self.adapted_names = self.choose_adapted()
        self.rate_parameters = nn.ParameterList(self.rate_start(name) for name in self.adapted_names)

    def build_network(self) -> nn.Module:
        """Return the plain network; CAVIA and ProtoNets override this."""
        return MLP(self.inputs, self.outputs, self.config.width, self.config.depth)

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the names of the tensors that the inner loop moves: here all but the symmetry matrices."""
        names = [name for name, _ in self.network.named_parameters()]
        return tuple(name for name in names if name.endswith(".original") or ".parametrizations." not in name)

    def first_rate(self, name: str) -> float:
        """Return the rate at which an adapted tensor starts: v's so that the weight moves as far as configured."""
        if not name.endswith(".original"):
            return self.config.inner_rate
        symmetry = self.network.get_submodule(name.removesuffix("original") + "0")
        assert isinstance(symmetry, FullSymmetry | KroneckerSymmetry)
        return self.config.inner_rate / symmetry.gain()

    def rate_start(self, name: str) -> nn.Parameter:
        """Return the rate parameter of one adapted tensor: a scalar, of which the rate is the softplus."""
        start = math.log(math.expm1(self.first_rate(name)))
        return nn.Parameter(torch.tensor(start, dtype=self.start()[name].dtype))

    def rates(self) -> Tensors:
        """Return the inner rates by the names of the adapted tensors."""
        return {
            name: nn.functional.softplus(parameter)
            for name, parameter in zip(self.adapted_names, self.rate_parameters, strict=True)
        }

    def shrink_rates(self) -> None:
        """Make every inner rate a tenth smaller: what the outer loop does when the inner loop diverges."""
        with torch.no_grad():
            for parameter in self.rate_parameters:
                rate = 0.9 * nn.functional.softplus(parameter)
                parameter.copy_(rate + torch.log(-torch.expm1(-rate)))  # the inverse of softplus, without overflow

    def start(self) -> Tensors:
        """Return the adapted tensors as every task starts from them."""
        parameters = dict(self.network.named_parameters())
        return {name: parameters[name] for name in self.adapted_names}

    def adapted_size(self) -> int:
        """Return how many numbers the inner loop moves."""
        return sum(tensor.numel() for tensor in self.start().values())

    def forward(self, adapted: Tensors, x: Tensor) -> Tensor:
        """Map x `(samples, x)` to `(samples, y)` with the adapted tensors in place."""
        return functional_call(self.network, adapted, (x,))

    def support_loss(self, adapted: Tensors, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of one task's samples, a scalar."""
        return self.loss(self(adapted, x), y)

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Tensors:
        """Run the inner loop on one task's support x `(shots, x)` and y `(shots, y)`; vmap gives several tasks."""
        return inner_loop(
            lambda adapted: self.support_loss(adapted, support_x, support_y),
            self.start(),
            self.rates(),
            steps=self.config.inner_steps if steps is None else steps,
            first_order=self.config.first_order,
        )
