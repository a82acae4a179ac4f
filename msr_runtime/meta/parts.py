"""Outer gradients in parts: as many tasks together as stay in the processor's cache.

Operators on many tasks at once cost little more than on one until what they hand on no longer fits the cache. Then each
reads and writes main memory, and a step takes several times as long as the same tasks a few at a time.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from msr_runtime.meta.inner import Tensors
from msr_runtime.meta.learner import Learner

Batch = list[Tensor]
"""support x and y `(tasks, shots, ...)`, query x and y `(tasks, queries, ...)`, normalised."""


class Gradient(Protocol):
    """A batch to the outer loss, a scalar, and its gradient by parameter name; what it does not depend on is left out.

    `weights` `(steps,)` are those of the losses after each inner step, or None for the last alone: all batches of a
    gradient come with weights, or none does.
    """

    def __call__(self, batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensors]:
        """Differentiate."""
        ...


CACHED = 16 * 10**6
"""Bytes that the tasks in hand may keep for their gradients: half of the last-level cache that it was measured with, on
a machine with other work to do."""


def tasks_at_once(learner: Learner, batch: Batch) -> int:
    """Return how many of a batch's tasks to differentiate together: a number that divides them; on a GPU all.

    It depends on shapes alone, so that a resumed run computes the same.
    """
    tasks = len(batch[0])
    if batch[0].is_cuda:
        return tasks
    kept = sum(_kept(learner, x[0], y[0]) for x, y in (batch[:2], batch[2:]))
    return max(n for n in range(1, tasks + 1) if tasks % n == 0 and (n == 1 or n * kept <= CACHED))


def in_parts(gradient: Gradient, at_once: int) -> Gradient:
    """Return the same gradient, a mean over tasks, taken of so many tasks at once."""

    def whole(batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensors]:
        tasks = len(batch[0])
        if tasks <= at_once:
            return gradient(batch, weights)
        mean, sums = torch.zeros((), device=batch[0].device), {}
        for part in zip(*(tensor.split(at_once) for tensor in batch), strict=True):
            value, gradients = gradient(list(part), weights)
            share = len(part[0]) / tasks
            mean = mean + value * share
            sums = {name: sums.get(name, 0) + g * share for name, g in gradients.items()}
        return mean, sums

    return whole


def _kept(learner: Learner, x: Tensor, y: Tensor) -> int:
    """How many bytes the loss of one task's samples keeps for its gradient, beyond the learner's own tensors."""
    own = {tensor.untyped_storage().data_ptr() for tensor in learner.state_dict().values()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        learner.support_loss(learner.start(), x, y)
    return sum(tensor.nbytes for storage, tensor in kept.items() if storage not in own)
