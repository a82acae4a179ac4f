"""What a robot's samples have and a simulator's lack: noise, outliers, a number of samples that varies, and a task that
changes meanwhile.

Only the support set is disturbed. So the outer loop learns rates and dampings whose adaptation is right on clean
queries, although its samples were not clean. Where it learns from a likelihood, the queries have the noise too.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import TrainingError
from msr_runtime.families import EpisodicFamily, rows_per_sample
from msr_runtime.meta.training.config import TrainSettings
from msr_runtime.task import Array, Shape, TaskBatch, TaskFamily

FEW = 8
"""Numbers of support samples among which a filter's outer steps draw."""


def shot_counts(settings: TrainSettings, *, few: bool = False) -> Sequence[int]:
    """Return the numbers of support samples that an outer step may have.

    Args:
        settings: The settings `shots` and `fewest_shots`.
        few: Leave out all but `FEW` of them, each about as many times the one before. A filter is trained on them: few
            samples are then drawn as often as many, and a step with few costs less.

    """
    fewest = settings.shots if settings.fewest_shots is None else settings.fewest_shots
    counts = range(fewest, settings.shots + 1)
    if not few or len(counts) <= FEW:
        return counts
    return sorted({round(count) for count in np.geomspace(fewest, settings.shots, FEW)})


def draw_shots(rng: np.random.Generator, settings: TrainSettings, *, few: bool = False) -> int:
    """Draw the number of support samples of an outer step. Nothing is drawn if there is only one (`shot_counts`)."""
    counts = shot_counts(settings, few=few)
    return counts[0] if len(counts) == 1 else counts[int(rng.integers(len(counts)))]


def draw_disturbance(rng: np.random.Generator, shape: Shape, settings: TrainSettings) -> Array | None:
    """Draw what is added to y of the support samples: noise and outliers.

    Args:
        rng: Source of the draws.
        shape: The shape of y, `(tasks, shots, *y)`.
        settings: The settings `noise`, `outliers` and `outlier_size`.

    Returns:
        An array of this shape in normalized units. None if the settings have neither; then nothing is drawn.

    """
    if not (settings.noise or settings.outliers):
        return None
    away = draw_noise(rng, shape, settings)
    wrong = rng.random(shape[:2]).reshape(*shape[:2], *[1] * (len(shape) - 2)) < settings.outliers
    signs = np.where(rng.random(shape) < 0.5, -1, 1)
    return (away + wrong * signs * settings.outlier_size).astype(np.float32)


def draw_noise(rng: np.random.Generator, shape: Shape, settings: TrainSettings) -> NDArray[np.float64]:
    """Draw noise on numbers of y, of the setting `noise`: an array of this shape in normalized units."""
    return settings.noise * rng.standard_normal(shape)


def switch_tasks(rng: np.random.Generator, batch: TaskBatch, settings: TrainSettings) -> TaskBatch:
    """Let the task change within some of the support sets: their first samples are those of the task before.

    The last sample at least is of the task itself, and so are all queries.

    Args:
        rng: Source of the draws.
        batch: Several tasks.
        settings: The setting `switches`. Without it nothing is drawn.

    """
    tasks, shots = batch.support_y.shape[:2]
    if not settings.switches or shots == 1:
        return batch
    switched = rng.random(tasks) < settings.switches
    first = np.where(switched, rng.integers(1, shots, tasks), 0)
    other = np.arange(shots) < first[:, None]

    def joined(own: Array) -> Array:
        return np.where(other.reshape(tasks, shots, *[1] * (own.ndim - 2)), np.roll(own, 1, axis=0), own)

    return batch._replace(support_x=joined(batch.support_x), support_y=joined(batch.support_y))


def describe_disturbance(settings: TrainSettings) -> str:
    """Return what is disturbed in the support sets, as text. Empty without a disturbance."""
    parts = []
    if settings.noise:
        parts.append(f"noise of {settings.noise:g} scales of y")
    if settings.outliers:
        parts.append(f"{settings.outliers:.3g} of the samples off by {settings.outlier_size:g} scales")
    if settings.switches:
        parts.append(f"another task at first in {settings.switches:.3g} of the support sets")
    if len(counts := shot_counts(settings)) > 1:
        parts.append(f"{counts[0]} to {counts[-1]} shots")
    return ", ".join(parts)


def require_disturbance(family: TaskFamily, settings: TrainSettings) -> None:
    """Refuse settings of noise, outliers or shots that cannot be followed.

    Raises:
        TrainingError: `fewest_shots` is above `shots`; there is noise, but y is a label or a statistic of samples; or
            tasks are to switch, but a step has one task alone, or the samples are statistics or episodes.

    """
    if not shot_counts(settings):
        raise TrainingError(
            f"fewest_shots is {settings.fewest_shots}, but shots is {settings.shots}: each outer step draws a number "
            "from the first to the second; lower the first or raise the second (--settings.*)"
        )
    what = "a label" if family.loss == "cross_entropy" else "a statistic of several samples"
    if (settings.noise or settings.outliers) and (family.loss == "cross_entropy" or rows_per_sample(family) > 1):
        raise TrainingError(
            f"noise is {settings.noise} and outliers is {settings.outliers}, but y of family '{family.name}' is "
            f"{what}, to which neither can be added; leave both out (--settings.*)"
        )
    if settings.switches and (settings.tasks_per_step == 1 or rows_per_sample(family) > 1):
        rows = "episodes" if isinstance(family, EpisodicFamily) else "statistics of samples"
        why = "has one task" if settings.tasks_per_step == 1 else f"has {rows} of '{family.name}'"
        raise TrainingError(
            f"switches is {settings.switches}: support sets shall begin with another task's samples, but an outer step "
            f"{why}; leave switches at 0 (--settings.switches)"
            + (", or raise tasks_per_step" if settings.tasks_per_step == 1 else "")
        )
