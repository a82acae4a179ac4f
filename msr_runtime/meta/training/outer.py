"""The loss of the outer loop, and its gradient: computed eagerly, or traced once into a flat graph of operators.

Sources: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, algorithm 1. Losses after every inner step:
Antoniou, Edwards, Storkey, "How to train your MAML", 2019.
"""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.recursive import Recursive
from msr_runtime.meta.rules.rule import Rule, Tensors
from msr_runtime.meta.training.chunks import Batch, Gradient, in_parts, tasks_at_once
from msr_runtime.meta.training.mixed_precision import Precision, RoundedProducts
from msr_runtime.meta.training.recompute import recomputed_path


class OuterLoss(nn.Module):
    """A learner's `query_loss` after it adapted to the support set; one number per task.

    Args:
        learner: The learner.
        recompute: Do not keep the intermediate results of the inner steps for the gradient; compute them again. The
            gradient is equal up to rounding.
        precision: Of the products in training. In evaluation it is float32, as on the robot.

    """

    def __init__(self, learner: Learner, *, recompute: bool = False, precision: Precision = "float32") -> None:
        super().__init__()
        self.learner, self.recompute, self.precision = learner, recompute, precision

    def forward(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Compute the query losses `(tasks,)` of a batch.

        Args:
            support_x: `(tasks, shots, *x)`, normalized.
            support_y: `(tasks, shots, *y)`, normalized.
            query_x: `(tasks, queries, *x)`, normalized.
            query_y: `(tasks, queries, *y)`, normalized.
            weights: `(steps,)`. With weights, the result is the weighted sum of the query losses after each inner
                step. With None, it is the query loss after the last inner step.

        """
        rounds = self.precision == "bfloat16" and self.training
        with RoundedProducts() if rounds else nullcontext():
            return self._losses(support_x, support_y, query_x, query_y, weights)

    def _losses(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor, weights: Tensor | None
    ) -> Tensor:
        def of_task(support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
            if weights is None:
                return self.learner.query_loss(support_x, support_y, query_x, query_y)
            path = inner_path(self.learner, support_x, support_y)
            return torch.stack([self.learner.support_loss(adapted, query_x, query_y) for adapted in path]) @ weights

        # vmap runs the code of one task on all tasks at once. Every operator gets one more axis, with no Python loop.
        randomness = "different" if self.learner.random else "error"
        if not self.recompute:
            return vmap(of_task, randomness=randomness)(support_x, support_y, query_x, query_y)
        path = recomputed_path(self.learner, require_inner_steps(self.learner), support_x, support_y)
        counted = path[-1:] if weights is None else path
        judge = vmap(self.learner.support_loss, randomness=randomness)
        losses = [judge(adapted, query_x, query_y) for adapted in counted]
        return losses[0] if weights is None else torch.stack(losses, 1) @ weights


def inner_path(learner: Learner, support_x: Tensor, support_y: Tensor) -> list[Tensors]:
    """Return the adapted tensors of one task after each inner step.

    Raises:
        TrainingError: See `require_inner_steps`.

    """
    rule, path, adapted = require_inner_steps(learner), [], learner.start()
    for index in range(rule.steps):
        adapted, _ = rule.take(index, learner.inner_forward, learner.loss, adapted, support_x, support_y)
        path.append(adapted)
    return path


def require_inner_steps(learner: Learner) -> Rule:
    """Return the rule of the learner's inner steps.

    Raises:
        TrainingError: The learner takes no inner steps in training, or adapts by code of its own.

    """
    if learner.rule is None or isinstance(learner.rule, Recursive) or type(learner).adapt is not Learner.adapt:
        raise TrainingError(
            f"method '{learner.name}' takes no inner steps in training, but multi_step and recompute act on inner "
            "steps: set multi_step to 0 (--settings.multi-step 0) and recompute to False (--settings.no-recompute), "
            "or choose a method with inner steps, such as msr, and a rule with them, such as gauss-newton"
        )
    return learner.rule


def step_weights(step: int, until: int, inner_steps: int) -> Tensor | None:
    """Return the weights `(inner_steps,)` of the query losses after each inner step.

    At outer step 0 all weights are equal. Then every weight but the last falls linearly to zero, and the last one
    rises, so that they always sum to 1. From outer step `until` on, only the loss after the last inner step counts.

    Args:
        step: The outer step, from 0.
        until: The outer step at which the earlier weights reach zero.
        inner_steps: Number of inner steps.

    Returns:
        The weights, or None from step `until` on.

    """
    if step >= until:
        return None
    weights = torch.full((inner_steps,), (1 - step / until) / inner_steps)
    weights[-1] += step / until
    return weights


def damp_large(losses: Tensor) -> Tensor:
    """Replace each loss above 1 by `1 + log(loss)`. Smaller losses stay as they are.

    A network that always predicts the mean has a loss of 1 in normalized units. When the inner loop begins to diverge
    on one task, that task's gradient is larger than all others together. Clipping the sum does not help, because the
    clipped sum then still points where that task points. Measured: with damping, wide networks and high outer rates
    train that fail without it.
    """
    # clamp: where() differentiates both branches, and log(0) in the branch not taken would make the gradient NaN
    return torch.where(losses > 1, 1 + losses.clamp(min=1).log(), losses)


def outer_gradient(loss: OuterLoss) -> Gradient:
    """Return a function that computes `loss` and its gradient eagerly, operator by operator."""
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
    """Return the same function as `outer_gradient`, traced once into one flat graph of operators.

    Eagerly, `torch.func` runs several layers of Python for every operator of every inner step. The graph holds only the
    operators that remain, in the same order, so its numbers equal the eager ones bit for bit. Tracing takes as long as
    some hundred outer steps. A branch that a learner takes in Python is fixed when it is traced.

    Args:
        loss: The loss. Its present parameters are read at every call.
        batch: A batch with the shapes of all later batches.
        weights: Weights as all later calls pass them, or None if no call passes any.

    """
    names = [name for name, p in loss.named_parameters() if p.requires_grad]
    held: list[str] = []  # names of the parameters that have a gradient: known once the code below was traced

    def differentiate(tensors: list[Tensor], batch: Batch, weights: Tensor | None) -> list[Tensor]:
        value, gradients = _differentiate(loss, dict(zip(names, tensors, strict=True)), batch, weights)
        held[:] = [name for name, g in zip(names, gradients, strict=True) if g is not None]
        return [value, *(g for g in gradients if g is not None)]

    def tensors() -> list[Tensor]:
        parameters = dict(loss.named_parameters())
        return [parameters[name] for name in names]

    at_once = tasks_at_once(loss.learner, batch)
    graph = make_fx(differentiate)(tensors(), [part[:at_once] for part in batch], weights)
    # Plain code generation takes the arguments side by side. The default one unpacks nested arguments at every call,
    # which costs more than an operator.
    graph.graph.set_codegen(CodeGen())
    graph.recompile()

    def gradient(batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensors]:
        with torch.no_grad():  # the graph already holds the backward pass; autograd must not record it again
            value, *gradients = graph(*tensors(), *batch, weights)
        return value, dict(zip(held, gradients, strict=True))

    return in_parts(gradient, at_once)


def _differentiate(
    loss: OuterLoss, trained: Mapping[str, Tensor], batch: Batch, weights: Tensor | None
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    # functional_call: the parameters become arguments, which a trace can take as inputs instead of constants
    value = damp_large(functional_call(loss, dict(trained), (*batch, weights))).mean()
    return value.detach(), torch.autograd.grad(value, list(trained.values()), allow_unused=True)
