"""Recomputed inner steps: the backward pass computes each inner step again, instead of keeping its results.

Training then needs the memory of one inner step, not of all, and takes more time. `torch.utils.checkpoint` does the
same, but does not work inside the transforms of `torch.func`. Here the transforms run inside each step instead.

Source: Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.rule import Rule, Tensors


def recomputed_path(learner: Learner, rule: Rule, support_x: Tensor, support_y: Tensor) -> list[Tensors]:
    """Return the adapted tensors of all tasks, each `(tasks, ...)`, after each inner step.

    Args:
        learner: The learner. Its parameters may be replaced by `functional_call`.
        rule: The rule of the learner's inner steps.
        support_x: `(tasks, shots, *x)`.
        support_y: `(tasks, shots, *y)`.

    """
    # Everything that a step reads must be an argument of `apply`: autograd gives gradients to arguments only.
    own = dict(learner.named_parameters())
    path, adapted = [], learner.start()
    for index in range(rule.steps):
        step = _Step(learner, rule, index, tuple(own), tuple(adapted))
        moved = _Recomputed.apply(step.flat, *own.values(), *adapted.values(), support_x, support_y)
        adapted = dict(zip(adapted, moved, strict=True))
        path.append(adapted)
    return path


class _Step(nn.Module):
    """One inner step of all tasks, written as a function of every tensor that it reads.

    It is a module so that `functional_call` can replace the learner's parameters by arguments.
    """

    def __init__(
        self, learner: Learner, rule: Rule, index: int, own: tuple[str, ...], adapted: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.learner, self.index, self.own, self.adapted = learner, index, own, adapted
        self.take = rule.take

    def forward(self, adapted: Tensors, support_x: Tensor, support_y: Tensor) -> Tensors:
        def of_task(adapted: Tensors, support_x: Tensor, support_y: Tensor) -> Tensors:
            learner = self.learner
            return self.take(self.index, learner.inner_forward, learner.loss, adapted, support_x, support_y)[0]

        # Before step 0 all tasks share the same tensors. Left without a task axis, they cost each operator only once.
        return vmap(of_task, in_dims=(0 if self.index else None, 0, 0))(adapted, support_x, support_y)

    def flat(self, *tensors: Tensor) -> list[Tensor]:
        *kept, support_x, support_y = tensors
        own, given = kept[: len(self.own)], kept[len(self.own) :]
        held = {f"learner.{name}": tensor for name, tensor in zip(self.own, own, strict=True)}
        adapted = dict(zip(self.adapted, given, strict=True))
        moved = functional_call(self, held, (adapted, support_x, support_y))
        return [moved[name] for name in self.adapted]


class _Recomputed(torch.autograd.Function):
    """Call a function of tensors, and keep only its arguments for the gradient. `backward` calls the function again."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Sequence[Tensor]], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        with torch.no_grad():
            return tuple(function(*tensors))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # detach: the second call builds a graph of its own, which ends at the arguments and is freed after this step
        needed = ctx.needs_input_grad[1:]
        tensors = [t.detach().requires_grad_(n) for t, n in zip(ctx.saved_tensors, needed, strict=True)]
        with torch.enable_grad():
            outputs = ctx.function(*tensors)
        # `grad` refuses outputs that depend on no argument with a gradient: leave those and their gradients out
        moved = [output.requires_grad for output in outputs]
        found = iter(
            torch.autograd.grad(
                [output for output, m in zip(outputs, moved, strict=True) if m],
                [tensor for tensor in tensors if tensor.requires_grad],
                [gradient for gradient, m in zip(gradients, moved, strict=True) if m],
                allow_unused=True,
            )
        )
        return None, *(next(found) if n else None for n in needed)  # None: the function itself has no gradient
