"""What every adaptation rule has in common: it moves tensors by a support set, with numbers that the outer loop learns.

Each rule is a small subclass of `Rule`. It is a pure function, over `torch.func`, of its arguments and its own
parameters.
"""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from msr_runtime.errors import TrainingError
from msr_runtime.task import Loss

Tensors = dict[str, Tensor]
"""Dotted name of a tensor in a network to the tensor."""

Forward = Callable[[Tensors, Tensor], Tensor]
"""The network: adapted tensors and x `(samples, ...)` to outputs `(samples, y)`. Each sample is computed by itself."""

LOSSES: dict[Loss, Callable[..., Tensor]] = {
    "mse": nn.functional.mse_loss,
    "huber": nn.functional.huber_loss,
    "cross_entropy": nn.functional.cross_entropy,
}
"""Loss name to the function of outputs and targets. Every loss is a mean over samples and outputs (for classes, over
samples).
"""

Index = int | Tensor
"""The number of a rule's step, from 0. An int64 tensor `(1,)` where one graph is traced for all steps."""


class Rule(nn.Module):
    """One way to adapt: `rule(forward, loss, adapted, support_x, support_y)` returns the moved tensors.

    A subclass implements one step. A rule learns numbers for as many steps as it was made with. Further steps use the
    last step's numbers.

    Args:
        steps: The number of steps.
        first_order: Treat what a step differentiates as constant in the outer loop. This is cheaper and less exact.

    Raises:
        TrainingError: `steps` is below 1.

    """

    def __init__(self, steps: int, *, first_order: bool = False) -> None:
        super().__init__()
        if steps < 1:
            raise TrainingError(f"the rule has {steps} steps, but at least 1 is needed; set inner_steps to 1 or more")
        self.steps, self.first_order = steps, first_order

    @property
    def own_steps(self) -> int:
        """How many steps have numbers of their own: 1 if all steps use the same numbers."""
        return self.steps

    def step(
        self, index: Index, forward: Forward, loss: Loss, adapted: Tensors, support_x: Tensor, support_y: Tensor
    ) -> tuple[Tensors, Tensor]:
        """Take one step.

        Args:
            index: The number of the step, from 0.
            forward: The network.
            loss: The name of the loss, a mean over samples and outputs (for classes, over samples).
            adapted: Name to tensor.
            support_x: `(shots, x)`.
            support_y: `(shots, y)`; for classes integers `(shots,)`.

        Returns:
            The moved tensors, and the loss before the step.

        """
        raise NotImplementedError

    def forward(
        self,
        forward: Forward,
        loss: Loss,
        adapted: Tensors,
        support_x: Tensor,
        support_y: Tensor,
        steps: int | None = None,
    ) -> Tensors:
        """Take all steps, or `steps` of them; see `step`. `torch.func.vmap` of it adapts to several tasks at once."""
        for index in range(self.steps if steps is None else steps):
            adapted, _ = self.take(index, forward, loss, adapted, support_x, support_y)
        return adapted

    def take(
        self, index: Index, forward: Forward, loss: Loss, adapted: Tensors, support_x: Tensor, support_y: Tensor
    ) -> tuple[Tensors, Tensor]:
        """Take one step, see `step`, and look at what it returns: it may be a user's code.

        Raises:
            TrainingError: It is not the moved tensors and the loss.

        """
        moved = self.step(index, forward, loss, adapted, support_x, support_y)
        if not isinstance(moved, tuple) or len(moved) != 2:
            seen = f"a tuple of {len(moved)}" if isinstance(moved, tuple) else _kind(moved)
        elif not isinstance(moved[0], dict) or not isinstance(moved[1], Tensor):
            seen = f"{_kind(moved[0])} and {_kind(moved[1])}"
        elif moved[0].keys() != adapted.keys():
            seen = f"tensors named {', '.join(sorted(moved[0])) or 'nothing'} and a loss"
        elif wrong := [name for name, tensor in adapted.items() if moved[0][name].shape != tensor.shape]:
            shapes = tuple(moved[0][wrong[0]].shape), tuple(adapted[wrong[0]].shape)
            seen = f"'{wrong[0]}' of shape {shapes[0]} in place of {shapes[1]}"
        else:
            return moved
        code = getattr(inspect.unwrap(type(self).step), "__code__", None)
        where = f", in {code.co_filename}, line {code.co_firstlineno}," if code else ""
        raise TrainingError(
            f"rule {type(self).__name__}: step{where} returned {seen}, but "
            "two things are wanted: a dict of all adapted tensors by name, moved or not, and the loss before the step; "
            "end it with `return adapted | moved, loss`"
        )

    def shrink(self) -> None:
        """Make every step smaller. The outer loop calls this when the inner loop diverges."""
        raise NotImplementedError

    def portable(self) -> "Rule":
        """The same rule on the same parameters, for export: only operators that ONNX has, and any number of shots."""
        return self


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def at_step(numbers: Tensor, index: Index) -> Tensor:
    """The numbers of step `index`, or of the last step if there are fewer."""
    # In a traced graph the index is a tensor: the row must be chosen by an operator, not by Python.
    last = len(numbers) - 1
    return numbers[min(index, last)] if isinstance(index, int) else numbers.index_select(0, index.clamp(max=last))[0]


def inverse_softplus(value: Tensor) -> Tensor:
    """The parameter whose softplus is `value`, computed without overflow.

    Raises:
        TrainingError: A value is not above zero.

    """
    if not (value > 0).all():
        raise TrainingError(
            f"a rate or damping starts at {value.min():g}, but must be above 0; set inner_rate or damping above 0"
        )
    # log(exp(value) - 1), written so that exp of a large value is never taken.
    return value + torch.log(-torch.expm1(-value))


def rescale(parameter: nn.Parameter, factor: float) -> None:
    """Multiply the softplus of a parameter by `factor`, in place."""
    with torch.no_grad():
        parameter.copy_(inverse_softplus(factor * nn.functional.softplus(parameter)))
