"""Inner steps that are computed again when they are differentiated: memory for one step, not for all, at more time.

`torch.utils.checkpoint` cannot be used under the transforms of `torch.func`; here they run within each step instead.

Source: Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from msr_runtime.meta.inner import Tensors
from msr_runtime.meta.learner import Learner
from msr_runtime.meta.rules import Rule


def recomputed_path(learner: Learner, rule: Rule, support_x: Tensor, support_y: Tensor) -> list[Tensors]:
    """Return the adapted tensors of all tasks, `(tasks, ...)` each, after each inner step.

    Args:
        learner: What adapts; it may stand under `functional_call`.
        rule: The learner's.
        support_x: `(tasks, shots, *x)`.
        support_y: `(tasks, shots, *y)`.

    """
    own = dict(learner.named_parameters())
    path, adapted = [], learner.start()
    for index in range(rule.steps):
        step = _Step(learner, rule, index, tuple(own), tuple(adapted))
        moved = _Recomputed.apply(step.flat, *own.values(), *adapted.values(), support_x, support_y)
        adapted = dict(zip(adapted, moved, strict=True))
        path.append(adapted)
    return path


class _Step(nn.Module):
    """One inner step of all tasks, as a function of every tensor that it reads."""

    def __init__(
        self, learner: Learner, rule: Rule, index: int, own: tuple[str, ...], adapted: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.learner, self.index, self.own, self.adapted = learner, index, own, adapted
        self.take = rule.step

    def forward(self, adapted: Tensors, support_x: Tensor, support_y: Tensor) -> Tensors:
        def of_task(adapted: Tensors, support_x: Tensor, support_y: Tensor) -> Tensors:
            learner = self.learner
            return self.take(self.index, learner.forward, learner.loss, adapted, support_x, support_y)[0]

        # All tasks start from the same tensors: batched, they would cost each operator on them as much as the samples.
        return vmap(of_task, in_dims=(0 if self.index else None, 0, 0))(adapted, support_x, support_y)

    def flat(self, *tensors: Tensor) -> list[Tensor]:
        *kept, support_x, support_y = tensors
        own, given = kept[: len(self.own)], kept[len(self.own) :]
        held = {f"learner.{name}": tensor for name, tensor in zip(self.own, own, strict=True)}
        adapted = dict(zip(self.adapted, given, strict=True))
        moved = functional_call(self, held, (adapted, support_x, support_y))
        return [moved[name] for name in self.adapted]


class _Recomputed(torch.autograd.Function):
    """A function of tensors that keeps its arguments for its gradient, and nothing of what it computes."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Sequence[Tensor]], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        with torch.no_grad():
            return tuple(function(*tensors))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        tensors = [t.detach().requires_grad_(n) for t, n in zip(ctx.saved_tensors, needed, strict=True)]
        with torch.enable_grad():
            outputs = ctx.function(*tensors)
        moved = [output.requires_grad for output in outputs]
        found = iter(
            torch.autograd.grad(
                [output for output, m in zip(outputs, moved, strict=True) if m],
                [tensor for tensor in tensors if tensor.requires_grad],
                [gradient for gradient, m in zip(gradients, moved, strict=True) if m],
                allow_unused=True,
            )
        )
        return None, *(next(found) if n else None for n in needed)
