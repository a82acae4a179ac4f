"""Checks of the family and the settings that are made before anything is simulated for long."""

import math

import numpy as np
import torch

from msr_runtime.errors import FamilyError, MsrError, TrainingError
from msr_runtime.families import EpisodicFamily, FiniteFamily, StackedFamily, takes_windows
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.unused import INNER_LOOP, refuse_unused
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.drawing import draw_tasks
from msr_runtime.meta.training.memory import machine_memory
from msr_runtime.meta.training.pool import examples_to_share
from msr_runtime.normalization import Normalization
from msr_runtime.task import TaskBatch, TaskFamily, sample_shape

_SAME = 1e-4
"""By how much of their scale two measurements of the same images may differ, of other versions of this program too."""


def require_used(config: TrainConfig, learner: type[Learner], family: TaskFamily) -> None:
    """Refuse settings, and options of the inner loop, that nothing uses.

    The options that size the network are left: a program may compare methods on one configuration of them.

    Raises:
        TrainingError: Such an option has not its default.

    """
    unused = learner.unused(config.learner)
    refuse_unused(config.method, config.learner, unused, INNER_LOOP)
    if isinstance(family, EpisodicFamily):
        why = f"every outer step draws new tasks of the stored images of family '{family.name}'"
        unused |= dict.fromkeys(("training_tasks", "samples_per_task"), why)
    if not config.settings.outliers:
        unused |= {"outlier_size": "there are no outliers (--settings.outliers)"}
    refuse_unused(config.method, config.settings, unused, TrainSettings.model_fields, group="settings")


def require_queries(family: TaskFamily, settings: TrainSettings) -> None:
    """Refuse fewer queries than the family has query sets: a set without queries would not be trained for.

    Raises:
        TrainingError: There are fewer.

    """
    sets = family.query_sets
    if settings.queries < len(sets):
        raise TrainingError(
            f"queries is {settings.queries}, but family '{family.name}' has {len(sets)} query sets "
            f"({', '.join(sets)}), and a step needs a query of each; raise it to {len(sets)} or more "
            "(--settings.queries)"
        )


def require_pool(family: TaskFamily, settings: TrainSettings) -> None:
    """Refuse settings whose outer steps need more tasks or samples than are simulated, or than the family has.

    Raises:
        TrainingError: An outer step needs more tasks or samples than are simulated, or than the family has.

    """
    if isinstance(family, EpisodicFamily):
        if settings.shots >= family.examples:
            raise TrainingError(
                f"shots is {settings.shots}, but each class of family '{family.name}' has {family.examples} images, "
                "and at least one must be left for the queries; lower the shots (--settings.shots), or take more "
                "images of each class"
            )
        return
    if isinstance(family, FiniteFamily) and settings.shots >= family.examples:
        raise TrainingError(
            f"shots is {settings.shots}, but each task of family '{family.name}' has {family.examples} examples, and "
            "at least one must be left for the queries; lower the shots (--settings.shots), leave out tasks that are "
            "shorter than the others, or record more"
        )
    queries = math.ceil(settings.queries / len(family.query_sets))
    limits = [(settings.tasks_per_step, settings.training_tasks, "tasks_per_step is {}, but training_tasks is {}")]
    if examples_to_share(family, settings.samples_per_task) is None and not takes_windows(family):
        limits += [
            (settings.shots, settings.samples_per_task, "shots is {}, but samples_per_task is {}"),
            (queries, settings.samples_per_task, "each query set gives {} queries, but samples_per_task is {}"),
        ]
    for wanted, held, what in limits:
        if wanted > held:
            raise TrainingError(
                f"{what.format(wanted, held)}: an outer step draws without repeats, so the second number must be at "
                "least the first; raise the second or lower the first (--settings.*)"
            )


def require_samples(family: TaskFamily, settings: TrainSettings) -> None:
    """Refuse samples whose shape is not that of the family's fields, and more samples than the memory holds.

    Raises:
        FamilyError: `sample` itself fails, or gives something else than was asked for.
        TrainingError: The shape of x or y differs from the fields, or the samples need more memory than there is.

    """
    batch = _first_sample(family, settings.seed)
    y = () if family.loss == "cross_entropy" else sample_shape(family.outputs)
    for side, seen, wanted in (
        ("x", batch.support_x.shape[2:], sample_shape(family.inputs)),
        ("y", batch.support_y.shape[2:], y),
    ):
        if seen != wanted:
            raise TrainingError(
                f"family '{family.name}' gives samples of {side} of shape {seen}, but its fields describe the shape "
                f"{wanted}; correct `sample` or the fields. A single field with several axes keeps its shape, other "
                "fields are flattened into one vector, and a label is one integer"
            )
    if isinstance(family, EpisodicFamily):
        return
    # This batch has one task, with one support sample and one query per set. The pool holds `samples_per_task` times
    # as much per task.
    needed = sum(part.nbytes for part in batch) * settings.samples_per_task * settings.training_tasks
    held = machine_memory()
    if needed > held:
        raise TrainingError(
            f"{settings.training_tasks} training_tasks of {settings.samples_per_task} samples_per_task take "
            f"{needed / 2**30:.1f} GiB, but this machine has {held / 2**30:.1f} GiB of memory; a sample of family "
            f"'{family.name}' has {math.prod(batch.support_x.shape[2:]) + math.prod(y)} numbers; lower "
            "training_tasks or samples_per_task (--settings.*)"
        )


def require_same_images(family: TaskFamily, begun: Normalization, measured: Normalization) -> None:
    """Refuse to continue a run on other images: a family's name says which options it has, but not which file.

    Args:
        family: The family, an `EpisodicFamily`.
        begun: What the run measured on its images when it began.
        measured: The same, measured on the images that are here.

    Raises:
        TrainingError: The two differ.

    """
    pairs = [(np.ravel(one.input_center), np.ravel(one.input_scale)) for one in (begun, measured)]
    (center, scale), (here, scale_here) = pairs
    if max(np.abs(here - center).max(), np.abs(scale_here - scale).max()) > _SAME * scale.min():
        raise TrainingError(
            f"the run was begun on other images than family '{family.name}' has here: their mean was "
            f"{center.mean():.5f} and is {here.mean():.5f} here; name the file of then, by the option file or the "
            "environment variable, or begin another run (another folder; --settings.start takes this one's weights)"
        )


def require_linear(family: TaskFamily, learner: Learner) -> None:
    """Refuse a network that is not linear, if the family is a `StackedFamily`.

    The rows of such a family are exact for one linear layer only; see `msr_envs.synthetic.Compressed`.

    Raises:
        TrainingError: The network's output for `a + b` differs from the sum of its outputs for `a` and for `b`.

    """
    if not isinstance(family, StackedFamily):
        return
    # random tensors in place of the start, at which the network may be zero and so look linear
    generator = torch.Generator().manual_seed(0)
    adapted = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in learner.start().items()}
    a, b = torch.randn(2, 8, *learner.inputs, generator=generator)
    with torch.no_grad():
        apart, together = learner(adapted, a) + learner(adapted, b), learner(adapted, a + b)
    if (apart - together).abs().max() > 1e-3 * together.abs().max():
        raise TrainingError(
            f"family '{family.name}' gives {family.rows} rows for each sample, which can train one linear "
            f"layer only, but the network of method '{learner.name}' is not linear; set depth to 0 "
            "(--learner.depth 0) and bias to False (--learner.no-bias), or train on the images themselves"
        )


def _first_sample(family: TaskFamily, seed: int) -> TaskBatch:
    queries = len(family.query_sets)
    try:
        return draw_tasks(family, np.random.default_rng(seed), 1, 1, queries, "train")
    except MsrError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise FamilyError.raised(family, f"sample(rng, 1, 1, {queries}, 'train')", error) from error
