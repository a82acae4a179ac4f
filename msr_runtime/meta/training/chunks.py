"""Outer gradients in parts: differentiate as many tasks together as fit into the processor's cache.

An operator on many tasks costs little more than on one task, as long as its results fit into the cache. When they do
not fit, every operator reads and writes main memory. An outer step then takes several times as long as the same tasks
in small parts.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.rule import Tensors

Batch = list[Tensor]
"""Support x and y `(tasks, shots, ...)`, then query x and y `(tasks, queries, ...)`, all normalized."""


class Gradient(Protocol):
    """A function from a batch to the outer loss (a scalar) and its gradient, by parameter name.

    The gradient leaves out parameters on which the loss does not depend.
    """

    def __call__(self, batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensors]:
        """Differentiate the outer loss of one batch.

        Args:
            batch: The tasks.
            weights: `(steps,)`, one weight per inner step for the query loss after that step. None counts the loss
                after the last inner step only. Pass weights in every call of one gradient, or in none.

        """
        ...


CACHED = 16 * 10**6
"""Bytes that the tasks of one part may keep for their gradients. Half of the last-level cache of the machine on which
it was measured, which had other work to do."""


def tasks_at_once(learner: Learner, batch: Batch) -> int:
    """Return how many tasks of a batch to differentiate together: a divisor of the number of tasks; on a GPU, all.

    The number depends on shapes only, so that a resumed run computes the same numbers.
    """
    tasks = len(batch[0])
    if batch[0].is_cuda:
        return tasks
    kept = sum(_kept(learner, x[0], y[0]) for x, y in (batch[:2], batch[2:]))
    return max(n for n in range(1, tasks + 1) if tasks % n == 0 and (n == 1 or n * kept <= CACHED))


def in_parts(gradient: Gradient, at_once: int) -> Gradient:
    """Return a gradient that differentiates at most `at_once` tasks together and averages over the parts."""

    def whole(batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensors]:
        tasks = len(batch[0])
        if tasks <= at_once:
            return gradient(batch, weights)
        mean, sums = torch.zeros((), device=batch[0].device), {}
        for part in zip(*(tensor.split(at_once) for tensor in batch), strict=True):
            value, gradients = gradient(list(part), weights)
            share = len(part[0]) / tasks  # the last part may have fewer tasks: the mean is over tasks, not over parts
            mean = mean + value * share
            sums = {name: sums.get(name, 0) + g * share for name, g in gradients.items()}
        return mean, sums

    return whole


def _kept(learner: Learner, x: Tensor, y: Tensor) -> int:
    """Return how many bytes one task's loss keeps for its gradient, without the learner's own tensors."""
    # Tensors are told apart by their memory, since autograd may save several views of one tensor.
    own = {tensor.untyped_storage().data_ptr() for tensor in learner.state_dict().values()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    # Autograd calls the first hook with every tensor that it saves, so that no formula per kind of layer is needed.
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        learner.support_loss(learner.start(), x, y)
    return sum(tensor.nbytes for storage, tensor in kept.items() if storage not in own)
