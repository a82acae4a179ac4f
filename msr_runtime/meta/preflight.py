"""What a run needs of its family and its settings, asked before anything is simulated for long."""

import math
import os

import numpy as np
import torch

from msr_runtime.errors import TrainingError
from msr_runtime.meta.config import TrainSettings
from msr_runtime.meta.learner import Learner
from msr_runtime.task import TaskFamily, rows_a_sample, sample_shape


def require_pool(family: TaskFamily, settings: TrainSettings) -> None:
    """Refuse outer steps that the simulated tasks cannot fill.

    Raises:
        TrainingError: a step needs more tasks or samples than are simulated.

    """
    queries = math.ceil(settings.queries / len(family.query_sets))
    for wanted, held, what in (
        (settings.tasks_per_step, settings.training_tasks, "tasks_per_step is {}, but training_tasks is {}"),
        (settings.shots, settings.samples_per_task, "shots is {}, but samples_per_task is {}"),
        (queries, settings.samples_per_task, "each query set gives {} queries, but samples_per_task is {}"),
    ):
        if wanted > held:
            raise TrainingError(
                f"{what.format(wanted, held)}: an outer step draws without repeats, so it needs that many at least"
            )


def require_samples(family: TaskFamily, settings: TrainSettings) -> None:
    """Refuse samples of other shapes than the family's fields say, and more of them than the machine's memory holds.

    Raises:
        TrainingError: either; the message names what was seen and what is wanted.

    """
    batch = family.sample(np.random.default_rng(settings.seed), 1, 1, len(family.query_sets), "train")
    y = () if family.loss == "cross_entropy" else sample_shape(family.outputs)
    for side, seen, wanted in (
        ("x", batch.support_x.shape[2:], sample_shape(family.inputs)),
        ("y", batch.support_y.shape[2:], y),
    ):
        if seen != wanted:
            raise TrainingError(
                f"family '{family.name}' gives samples of {side} of shape {seen}, but {wanted} is wanted by its "
                "fields: a lone field of several axes in its own shape, all others flattened into one vector, and a "
                "label as one integer"
            )
    # One support sample and one query a set were drawn: the pool holds as many for each of a task's samples.
    needed = sum(part.nbytes for part in batch) * settings.samples_per_task * settings.training_tasks
    held = _memory()
    if needed > held:
        raise TrainingError(
            f"{settings.training_tasks} training_tasks of {settings.samples_per_task} samples_per_task take "
            f"{needed / 2**30:.1f} GiB, but this machine has {held / 2**30:.1f} GiB of memory; a sample of family "
            f"'{family.name}' has {math.prod(batch.support_x.shape[2:]) + math.prod(y)} numbers: lower one of the two"
        )


def require_linear(family: TaskFamily, learner: Learner) -> None:
    """Refuse all but a linear network for a family whose samples are rows that mean something to one linear layer.

    Raises:
        TrainingError: the network of a sum of inputs is not the sum of what it is of each.

    """
    if rows_a_sample(family) == 1:
        return
    generator = torch.Generator().manual_seed(0)
    adapted = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in learner.start().items()}
    a, b = torch.randn(2, 8, *learner.inputs, generator=generator)
    with torch.no_grad():
        apart, together = learner(adapted, a) + learner(adapted, b), learner(adapted, a + b)
    if (apart - together).abs().max() > 1e-3 * together.abs().max():
        raise TrainingError(
            f"family '{family.name}' gives {rows_a_sample(family)} rows for each sample, which stand for it to one "
            f"linear layer alone, but the network of method '{learner.name}' is not linear; set depth to 0 and bias to "
            "False, or train on the images themselves"
        )


def _memory() -> float:
    """The machine's memory in bytes; infinite where the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
