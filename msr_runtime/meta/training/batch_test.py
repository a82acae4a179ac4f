"""The test whether the samples of a task depend on how many tasks or samples are asked for. None may: training draws
hundreds of tasks at once, and a test one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from msr_runtime.families import FiniteFamily
from msr_runtime.meta.training.drawing import draw_tasks
from msr_runtime.meta.training.kernel_ridge import Floats, targets
from msr_runtime.task import Field, TaskBatch, TaskFamily, field_slices

LEAST_DISTANCE = 0.6
"""Two sets of tasks come from different distributions if their empirical distribution functions are so far apart in
some number (Kolmogorov and Smirnov's distance). By chance, that happens once in ten million comparisons."""

_TASKS, _SHOTS = 48, 24


@dataclass(frozen=True)
class BatchReport:
    """How much the samples of tasks differ between two sizes of a batch, in the number that differs most."""

    family: str
    """The family's name."""
    field: str
    """The field of that number."""
    asked: str
    """The two sizes, in words."""
    distance: float
    """The largest distance of two distribution functions, 0 to 1."""

    @property
    def depends(self) -> bool:
        """Whether samples depend on the size of the batch, by `LEAST_DISTANCE`."""
        return self.distance >= LEAST_DISTANCE

    def doubt(self) -> str:
        """Return in words what was found, and what to do."""
        return (
            f"family '{self.family}': the values of '{self.field}' differ between {self.asked} (the distribution "
            f"functions are {self.distance:.2f} apart), but samples must not depend on how many are asked for: "
            "training asks for many, and a robot is one. The likely cause is a range that is laid out over the batch, "
            "such as np.linspace(..., tasks), or a mean or a maximum that is taken over it: draw each task and each "
            "sample by itself"
        )


def check_batches(family: TaskFamily, rng: np.random.Generator) -> BatchReport | None:
    """Test whether samples depend on the numbers of tasks and samples that are asked for. It needs no network.

    Args:
        family: The family. Tasks of its split `train` are drawn.
        rng: Source of every random draw.

    Returns:
        The report. None for recorded tasks, whose samples are there before anybody asks.

    """
    if isinstance(family, FiniteFamily):
        return None
    sets = len(family.query_sets)
    together = draw_tasks(family, rng, _TASKS, _SHOTS, sets, "train")
    alone = [draw_tasks(family, rng, 1, _SHOTS, sets, "train") for _ in range(_TASKS)]
    alone = TaskBatch(*(np.concatenate(parts) for parts in zip(*alone, strict=True)))
    single = draw_tasks(family, rng, _TASKS, 1, sets, "train")
    tasks = f"{_TASKS} tasks that are drawn together and {_TASKS} that are drawn one by one"
    shots = f"support sets of {_SHOTS} samples and of one"
    rows = together.support_x.shape[1] // _SHOTS
    reports = [
        BatchReport(family.name, field.name, asked, distance)
        for asked, one, other, count in (
            (tasks, together, alone, _SHOTS * rows),
            (shots, together, single, rows),
        )
        for field, distance in _distances(family, one, other, count)
    ]
    return max(reports, key=lambda report: report.distance)


def _distances(family: TaskFamily, one: TaskBatch, other: TaskBatch, rows: int) -> Iterator[tuple[Field, float]]:
    """Yield the largest distance of each field, over what is measured of the first rows of a support set."""
    for fields, sides in (
        (family.inputs, [batch.support_x.reshape(*batch.support_x.shape[:2], -1) for batch in (one, other)]),
        (family.outputs, [targets(family, batch.support_y) for batch in (one, other)]),
    ):
        measured = [_measures(side[:, :rows].astype(np.float64)) for side in sides]
        distances = np.max([_distance(a, b) for a, b in zip(*measured, strict=True)], 0)
        for field in fields:
            yield field, float(distances[field_slices(fields)[field.name]].max())


def _measures(rows: Floats) -> list[Floats]:
    """Return the mean, its size and the spread of each number in each task, `(tasks, numbers)` each."""
    mean = rows.mean(1)
    return [mean, np.abs(mean), rows.std(1)]


def _distance(one: Floats, other: Floats) -> Floats:
    """Return Kolmogorov and Smirnov's distance of two samples `(tasks, numbers)`, for each number."""
    at = np.sort(np.concatenate([one, other]), 0)
    # rounding of sums may order equal numbers by the size of the batch
    slack = 1e-5 * np.abs(at).max(0, initial=1e-30)
    shares = [(part[:, None] <= at + slack).mean(0) for part in (one, other)]
    return np.abs(shares[0] - shares[1]).max(0)
