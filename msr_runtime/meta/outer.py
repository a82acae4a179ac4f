"""The outer loop's loss and its gradient, eager or as one flat graph.

Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, algorithm 1; losses after every inner step:
Antoniou, Edwards, Storkey, "How to train your MAML", 2019.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

from msr_runtime.errors import TrainingError
from msr_runtime.meta.inner import Tensors
from msr_runtime.meta.learner import Learner
from msr_runtime.meta.parts import Batch, Gradient, in_parts, tasks_at_once
from msr_runtime.meta.recompute import recomputed_path
from msr_runtime.meta.rules import Rule


class OuterLoss(nn.Module):
    """What a learner's query loss is after it adapted to the support, one figure a task.

    Args:
        learner: The learner.
        recompute: Keep nothing of the inner steps for the gradient, but compute them again: the same, to rounding.

    """

    def __init__(self, learner: Learner, *, recompute: bool = False) -> None:
        super().__init__()
        self.learner, self.recompute = learner, recompute

    def forward(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Map a batch to its query losses `(tasks,)`.

        With `weights` `(steps,)` they are the sum of those after each inner step, so weighted.
        """

        def of_task(support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
            if weights is None:
                return self.learner.support_loss(self.learner.adapt(support_x, support_y), query_x, query_y)
            path = inner_path(self.learner, support_x, support_y)
            return torch.stack([self.learner.support_loss(adapted, query_x, query_y) for adapted in path]) @ weights

        if not self.recompute:
            return vmap(of_task)(support_x, support_y, query_x, query_y)
        path = recomputed_path(self.learner, require_inner_steps(self.learner), support_x, support_y)
        counted = path[-1:] if weights is None else path
        losses = [vmap(self.learner.support_loss)(adapted, query_x, query_y) for adapted in counted]
        return losses[0] if weights is None else torch.stack(losses, 1) @ weights


def inner_path(learner: Learner, support_x: Tensor, support_y: Tensor) -> list[Tensors]:
    """Return the adapted tensors of one task after each inner step; see `require_inner_steps` for what it raises."""
    rule, path, adapted = require_inner_steps(learner), [], learner.start()
    for index in range(rule.steps):
        adapted, _ = rule.step(index, learner.forward, learner.loss, adapted, support_x, support_y)
        path.append(adapted)
    return path


def require_inner_steps(learner: Learner) -> Rule:
    """Return the rule whose steps the learner takes in training.

    Raises:
        TrainingError: it takes none, or adapts in a way of its own.

    """
    if learner.rule is None or type(learner).adapt is not Learner.adapt:
        raise TrainingError(
            f"method '{learner.name}' takes no inner steps in training that could be recomputed, or have losses "
            "after them: leave multi_step at 0 and recompute off"
        )
    return learner.rule


def step_weights(step: int, until: int, inner_steps: int) -> Tensor | None:
    """Return the weights `(inner_steps,)` of the query losses after each inner step, in outer step `step`, from 0.

    At first they are equal. All but the last then fall to zero, in proportion to the steps, and the last takes what
    they lose. From step `until` on there is but the loss after the last inner step, and None is returned.
    """
    if step >= until:
        return None
    weights = torch.full((inner_steps,), (1 - step / until) / inner_steps)
    weights[-1] += step / until
    return weights


def damp_large(losses: Tensor) -> Tensor:
    """Let losses above 1, which predicting the mean costs, grow only as their logarithm; smaller ones pass as they are.

    Where the inner loop begins to diverge on one task, its gradient outweighs all the others', and clipping the sum
    only makes it the whole step. Damped, wide networks and high outer rates train that otherwise end in nothing.
    """
    return torch.where(losses > 1, 1 + losses.clamp(min=1).log(), losses)


def outer_gradient(loss: OuterLoss) -> Gradient:
    """Return the function that differentiates `loss` through torch's own machinery."""
    at_once = 0

    def of_part(batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensors]:
        trained = {name: p for name, p in loss.named_parameters() if p.requires_grad}
        value, gradients = _differentiate(loss, trained, batch, weights)
        return value, {name: g for name, g in zip(trained, gradients, strict=True) if g is not None}

    def gradient(batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensors]:
        nonlocal at_once
        at_once = at_once or tasks_at_once(loss.learner, batch)
        return in_parts(of_part, at_once)(batch, weights)

    return gradient


def traced_gradient(loss: OuterLoss, batch: Batch, weights: Tensor | None = None) -> Gradient:
    """Return `outer_gradient` for batches and weights shaped as these, traced once into one graph of operators.

    `torch.func` goes through its layers of transforms in Python for every operator of every inner step; the graph is
    what they come down to, the same operators in the same order, so that its numbers are the eager ones, bit for bit.
    Tracing takes as long as some hundred steps. What a learner decides in Python is decided for good when it is traced.
    """
    names = [name for name, p in loss.named_parameters() if p.requires_grad]
    held: list[str] = []

    def differentiate(tensors: list[Tensor], batch: Batch, weights: Tensor | None) -> list[Tensor]:
        value, gradients = _differentiate(loss, dict(zip(names, tensors, strict=True)), batch, weights)
        held[:] = [name for name, g in zip(names, gradients, strict=True) if g is not None]
        return [value, *(g for g in gradients if g is not None)]

    def tensors() -> list[Tensor]:
        parameters = dict(loss.named_parameters())
        return [parameters[name] for name in names]

    at_once = tasks_at_once(loss.learner, batch)
    graph = make_fx(differentiate)(tensors(), [part[:at_once] for part in batch], weights)
    graph.graph.set_codegen(CodeGen())  # arguments side by side: taking nested ones apart costs more than an operator
    graph.recompile()

    def gradient(batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensors]:
        with torch.no_grad():
            value, *gradients = graph(*tensors(), *batch, weights)
        return value, dict(zip(held, gradients, strict=True))

    return in_parts(gradient, at_once)


def _differentiate(
    loss: OuterLoss, trained: Mapping[str, Tensor], batch: Batch, weights: Tensor | None
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    value = damp_large(functional_call(loss, dict(trained), (*batch, weights))).mean()
    return value.detach(), torch.autograd.grad(value, list(trained.values()), allow_unused=True)
