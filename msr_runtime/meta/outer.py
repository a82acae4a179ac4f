"""The outer loop's loss and its gradient, eager or as one flat graph.

Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, algorithm 1.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

from msr_runtime.meta.inner import Tensors
from msr_runtime.meta.learner import Learner

Batch = list[Tensor]
"""support x and y `(tasks, shots, ...)`, query x and y `(tasks, queries, ...)`, normalised."""
Gradient = Callable[[Batch], tuple[Tensor, Tensors]]
"""A batch to the outer loss, a scalar, and its gradient by parameter name; what it does not depend on is left out."""


class OuterLoss(nn.Module):
    """What a learner's query loss is after it adapted to the support, one figure a task."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        """Map a batch to its query losses `(tasks,)`."""

        def of_task(support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
            return self.learner.support_loss(self.learner.adapt(support_x, support_y), query_x, query_y)

        return vmap(of_task)(support_x, support_y, query_x, query_y)


def damp_large(losses: Tensor) -> Tensor:
    """Let losses above 1, which predicting the mean costs, grow only as their logarithm; smaller ones pass as they are.

    Where the inner loop begins to diverge on one task, its gradient outweighs all the others', and clipping the sum
    only makes it the whole step. Damped, wide networks and high outer rates train that otherwise end in nothing.
    """
    return torch.where(losses > 1, 1 + losses.clamp(min=1).log(), losses)


def outer_gradient(loss: OuterLoss) -> Gradient:
    """Return the function that differentiates `loss` through torch's own machinery."""

    def gradient(batch: Batch) -> tuple[Tensor, Tensors]:
        trained = {name: p for name, p in loss.named_parameters() if p.requires_grad}
        value, gradients = _differentiate(loss, trained, batch)
        return value, {name: g for name, g in zip(trained, gradients, strict=True) if g is not None}

    return gradient


def traced_gradient(loss: OuterLoss, batch: Batch) -> Gradient:
    """Return `outer_gradient` for batches shaped as `batch`, traced once into one graph of operators.

    `torch.func` goes through its layers of transforms in Python for every operator of every inner step; the graph is
    what they come down to, the same operators in the same order, so that its numbers are the eager ones, bit for bit.
    Tracing takes as long as some hundred steps. What a learner decides in Python is decided for good when it is traced.
    """
    names = [name for name, p in loss.named_parameters() if p.requires_grad]
    held: list[str] = []

    def differentiate(tensors: list[Tensor], batch: Batch) -> list[Tensor]:
        value, gradients = _differentiate(loss, dict(zip(names, tensors, strict=True)), batch)
        held[:] = [name for name, g in zip(names, gradients, strict=True) if g is not None]
        return [value, *(g for g in gradients if g is not None)]

    def tensors() -> list[Tensor]:
        parameters = dict(loss.named_parameters())
        return [parameters[name] for name in names]

    graph = make_fx(differentiate)(tensors(), batch)
    graph.graph.set_codegen(CodeGen())  # arguments side by side: taking nested ones apart costs more than an operator
    graph.recompile()

    def gradient(batch: Batch) -> tuple[Tensor, Tensors]:
        with torch.no_grad():
            value, *gradients = graph(*tensors(), *batch)
        return value, dict(zip(held, gradients, strict=True))

    return gradient


def _differentiate(
    loss: OuterLoss, trained: Mapping[str, Tensor], batch: Batch
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    value = damp_large(functional_call(loss, dict(trained), tuple(batch))).mean()
    return value.detach(), torch.autograd.grad(value, list(trained.values()), allow_unused=True)
