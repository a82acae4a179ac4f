"""Gradient steps on the adapted tensors, at rates that the outer loop learns."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import grad_and_value

from msr_runtime.meta.rules.rule import LOSSES, Forward, Index, Rule, Tensors, at_step, inverse_softplus, rescale
from msr_runtime.task import Loss


def inner_step(
    loss: Callable[[Tensors], Tensor], adapted: Tensors, rates: Tensors, *, first_order: bool = False
) -> tuple[Tensors, Tensor]:
    """Take one step `p - rate * dloss/dp` on every adapted tensor p.

    Args:
        loss: The support loss of one task as a function of the adapted tensors; returns a scalar.
        adapted: Name to tensor.
        rates: Name to rate: a scalar, or one number per number of the tensor.
        first_order: Treat the gradients as constants in the outer loop.

    Returns:
        The moved tensors, and the loss before the step.

    """
    gradients, value = grad_and_value(loss)(adapted)
    if first_order:
        gradients = {name: gradient.detach() for name, gradient in gradients.items()}
    return {name: tensor - rates[name] * gradients[name] for name, tensor in adapted.items()}, value


class GradientSteps(Rule):
    """Steps `p - rate * dloss/dp` with one learned rate per tensor (MAML), or one per tensor and step (MAML++).

    A rate is the `softplus` of its parameter. So it is always positive. A clamp would also keep it positive, but its
    gradient is zero where it acts.

    Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017; Antoniou, Edwards, Storkey, "How to train your
    MAML", 2019.

    Args:
        rates: Name of each adapted tensor to the rate at which its learning starts, above 0.
        steps: The number of steps.
        per_step: Learn separate rates for each step.
        first_order: Treat the gradients as constants in the outer loop.

    Raises:
        TrainingError: `steps` is below 1, or a rate is not above 0.

    Example:
        >>> import torch
        >>> from msr_runtime.meta.rules import GradientSteps
        >>> rule = GradientSteps({"v": 0.25}, steps=3)
        >>> x, y = torch.ones(4, 1), torch.full((4, 1), 2.0)
        >>> moved = rule(lambda adapted, x: x * adapted["v"], "mse", {"v": torch.zeros(1)}, x, y)
        >>> round(moved["v"].item(), 3)  # from 0 by 1, 0.5 and 0.25 towards 2
        1.75

    """

    def __init__(
        self, rates: Mapping[str, float], steps: int, *, per_step: bool = False, first_order: bool = False
    ) -> None:
        super().__init__(steps, first_order=first_order)
        self.names = tuple(rates)
        start = inverse_softplus(torch.tensor(list(rates.values())))
        self.rate_parameters = nn.Parameter(start.repeat(steps if per_step else 1, 1))

    @property
    def own_steps(self) -> int:
        """One per row of rates."""
        return len(self.rate_parameters)

    def rates(self, index: Index) -> Tensors:
        """The rates of step `index`: name of an adapted tensor to a scalar."""
        row = at_step(self.rate_parameters, index)
        return dict(zip(self.names, nn.functional.softplus(row).unbind(), strict=True))

    def step(
        self, index: Index, forward: Forward, loss: Loss, adapted: Tensors, support_x: Tensor, support_y: Tensor
    ) -> tuple[Tensors, Tensor]:
        """Take one gradient step. See `Rule.step`."""

        def support_loss(adapted: Tensors) -> Tensor:
            return LOSSES[loss](forward(adapted, support_x), support_y)

        return inner_step(support_loss, adapted, self.rates(index), first_order=self.first_order)

    def shrink(self) -> None:
        """Multiply every rate by 0.9."""
        rescale(self.rate_parameters, 0.9)


class SignedSteps(GradientSteps):
    """Gradient steps with one learned rate per number of every tensor, of either sign (Li et al., "Meta-SGD", 2017).

    Args:
        rates: Name of each adapted tensor to the rates at which its learning starts, in the tensor's own shape.
        steps: The number of steps.
        first_order: Treat the gradients as constants in the outer loop.

    """

    def __init__(self, rates: Mapping[str, Tensor], steps: int, *, first_order: bool = False) -> None:
        # Not GradientSteps.__init__: a rate of either sign is its own parameter, without softplus.
        Rule.__init__(self, steps, first_order=first_order)
        self.names = tuple(rates)
        self.rate_parameters = nn.ParameterList(rates.values())

    @property
    def own_steps(self) -> int:
        """One: all steps use the same rates."""
        return 1

    def rates(self, index: Index) -> Tensors:  # noqa: ARG002
        """The rates of every step: name of an adapted tensor to a tensor of its shape."""
        return dict(zip(self.names, self.rate_parameters, strict=True))

    def shrink(self) -> None:
        """Multiply every rate by 0.9."""
        with torch.no_grad():
            for rates in self.rate_parameters:
                rates.mul_(0.9)
