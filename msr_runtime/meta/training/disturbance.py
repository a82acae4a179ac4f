"""What a robot's samples have and a simulator's lack: noise, outliers, and a number of samples that varies.

Only the support set is disturbed. So the outer loop learns rates and dampings whose adaptation is right on clean
queries, although its samples were not clean.
"""

import numpy as np

from msr_runtime.errors import TrainingError
from msr_runtime.meta.training.config import TrainSettings
from msr_runtime.task import Array, Shape, TaskFamily, rows_per_sample


def shot_counts(settings: TrainSettings) -> range:
    """Return the numbers of support samples that an outer step may have."""
    fewest = settings.shots if settings.fewest_shots is None else settings.fewest_shots
    return range(fewest, settings.shots + 1)


def draw_shots(rng: np.random.Generator, settings: TrainSettings) -> int:
    """Draw the number of support samples of an outer step. Nothing is drawn if there is only one."""
    counts = shot_counts(settings)
    return settings.shots if len(counts) == 1 else int(rng.integers(counts.start, counts.stop))


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
    away = settings.noise * rng.standard_normal(shape)
    wrong = rng.random(shape[:2]).reshape(*shape[:2], *[1] * (len(shape) - 2)) < settings.outliers
    signs = np.where(rng.random(shape) < 0.5, -1, 1)
    return (away + wrong * signs * settings.outlier_size).astype(np.float32)


def describe_disturbance(settings: TrainSettings) -> str:
    """Return what is disturbed in the support sets, as text. Empty without a disturbance."""
    parts = []
    if settings.noise:
        parts.append(f"noise of {settings.noise:g} scales of y")
    if settings.outliers:
        parts.append(f"{settings.outliers:.3g} of the samples off by {settings.outlier_size:g} scales")
    if len(counts := shot_counts(settings)) > 1:
        parts.append(f"{counts.start} to {counts.stop - 1} shots")
    return ", ".join(parts)


def require_disturbance(family: TaskFamily, settings: TrainSettings) -> None:
    """Refuse settings of noise, outliers or shots that cannot be followed.

    Raises:
        TrainingError: `fewest_shots` is above `shots`; or there is noise, but y is a label or a statistic of samples.

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
