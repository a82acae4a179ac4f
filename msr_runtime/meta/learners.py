"""Learners: which tensors of a network the inner loop moves, and at which rates.

Each is a small subclass of `Learner`; a learner of your own is another, passed to the trainer as a class.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call

from msr_runtime.errors import TrainingError
from msr_runtime.meta.inner import Tensors, inner_loop
from msr_runtime.meta.network import MLP, ContextMLP
from msr_runtime.meta.symmetry import (
    Form,
    FullSymmetry,
    KroneckerSymmetry,
    filter_parameter_names,
    reparameterize,
)
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
    """k, the filter parameters of each tensor (MSR only)."""
    form: Form = "full"
    """The form of the symmetry matrix (MSR only)."""
    terms: PositiveInt = 1
    """Kronecker terms, if the form is `kronecker` (MSR only)."""
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
        self.adapted_names = self.choose_adapted()
        self.rate_parameters = nn.ParameterList(self.rate_start(name) for name in self.adapted_names)

    def build_network(self) -> nn.Module:
        """Return the network; MSR and CAVIA override this."""
        return MLP(self.inputs, self.outputs, self.config.width, self.config.depth)

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the names of the tensors that the inner loop moves."""
        return tuple(name for name, _ in self.network.named_parameters())

    def rate_start(self, name: str) -> nn.Parameter:
        """Return the rate parameter of one adapted tensor: a scalar, inverse softplus of the configured start."""
        return _positive(self.config.inner_rate, self.start()[name])

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


class MAML(Learner):
    """All weights adapt (Finn et al., 2017), at one learned rate a tensor."""

    name = "maml"


class BigMAML(MAML):
    """MAML with a network widened until it has as many meta-learned numbers as MSR has with the same configuration.

    The paper's "MAML (Big)"; its exact size is not given there, so the number of parameters is matched.
    """

    name = "maml-big"

    def build_network(self) -> nn.Module:
        """Return an MLP of the configured depth and of the greatest width whose count is not above MSR's."""
        # Both have one rate a tensor, so the networks' counts are what has to match.
        wanted = sum(p.numel() for p in MSR(self.config, self.inputs, self.outputs, "mse").network.parameters())

        def count(width: int) -> int:
            sizes = [self.inputs] + [width] * self.config.depth + [self.outputs]
            return sum((a + 1) * b for a, b in pairwise(sizes))

        width = self.config.width
        while count(width + 1) <= wanted:
            width += 1
        return MLP(self.inputs, self.outputs, width, self.config.depth)


class ANIL(Learner):
    """Only the last layer adapts (Raghu et al., "Rapid learning or feature reuse?", 2020)."""

    name = "anil"

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the last layer's weight and bias."""
        last = f"layers.{self.config.depth}"
        return f"{last}.weight", f"{last}.bias"


class MetaSGD(Learner):
    """All weights adapt, each at its own learned rate of either sign (Li et al., "Meta-SGD", 2017)."""

    name = "meta-sgd"

    def rate_start(self, name: str) -> nn.Parameter:
        """Return one rate a number of the tensor."""
        return nn.Parameter(torch.full_like(self.start()[name], self.config.inner_rate))

    def rates(self) -> Tensors:
        """Return the rates as they are: Meta-SGD learns their sign too."""
        return dict(zip(self.adapted_names, self.rate_parameters, strict=True))

    def shrink_rates(self) -> None:
        """Make every inner rate a tenth smaller."""
        with torch.no_grad():
            for parameter in self.rate_parameters:
                parameter.mul_(0.9)


class CAVIA(Learner):
    """Only a context vector beside the input adapts, from zero (Zintgraf et al., "CAVIA", 2019)."""

    name = "cavia"

    def build_network(self) -> nn.Module:
        """Return an MLP that reads the context."""
        config = self.config
        return ContextMLP(self.inputs, self.outputs, config.width, config.depth, config.context)

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the context alone."""
        return ("context",)

    def start(self) -> Tensors:
        """Return a context of zeros that the outer loop cannot move, as in the paper."""
        return {"context": torch.zeros_like(self.network.get_parameter("context"))}


class MSR(Learner):
    """Only the filter parameters v adapt; the symmetry matrices U are meta-learned (Zhou et al., 2021)."""

    name = "msr"

    def build_network(self) -> nn.Module:
        """Return an MLP of which every weight and bias is `reshape(U v)`."""
        network = super().build_network()
        config = self.config
        reparameterize(network, filters=config.filters, form=config.form, terms=config.terms)
        return network

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the filter parameters."""
        return filter_parameter_names(self.network)

    def rate_start(self, name: str) -> nn.Parameter:
        """Return a rate at which the weight, not v, moves as far as the configured one says."""
        symmetry = self.network.get_submodule(name.removesuffix("original") + "0")
        assert isinstance(symmetry, FullSymmetry | KroneckerSymmetry)
        return _positive(self.config.inner_rate / symmetry.gain(), self.start()[name])


def _positive(rate: float, like: Tensor) -> nn.Parameter:
    """Return the parameter of which `rate` is the softplus."""
    return nn.Parameter(torch.tensor(math.log(math.expm1(rate)), dtype=like.dtype))


LEARNERS: dict[str, type[Learner]] = {learner.name: learner for learner in (MSR, MAML, BigMAML, ANIL, MetaSGD, CAVIA)}


def learner_class(name: str) -> type[Learner]:
    """Return the learner called `name`.

    Raises:
        TrainingError: there is none of that name; the message lists those there are.

    """
    if name not in LEARNERS:
        raise TrainingError(f"there is no method '{name}'; the methods are {', '.join(LEARNERS)}")
    return LEARNERS[name]
