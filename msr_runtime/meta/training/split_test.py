"""The test whether two splits draw their tasks from one list. Then every error on new tasks is one on known tasks."""

from dataclasses import dataclass

import numpy as np

from msr_runtime.families import FiniteFamily, rows_per_sample
from msr_runtime.meta.training.drawing import draw_tasks
from msr_runtime.meta.training.kernel_ridge import Floats, residuals, scaled, targets
from msr_runtime.task import Split, TaskFamily, field_slices

LEAST_TWINS = 1 / 3
"""Splits share tasks if this share of the tasks of one has a twin among those of the other,"""
MOST_BETWEEN = 1 / 4
"""if at most so many pairs of tasks are neither twins nor far apart, for each pair of twins,"""
LEAST_FAR = 1 / 3
"""and if this share of all pairs is far apart."""

_TASKS, _SAMPLES = 24, 64
_TWIN, _FAR = 9.0, 40.0
"""A task is learned from the samples of another one, and its error is divided by that from its own samples. Below the
first number, the two are twins: single tasks differ that much. From the second on, they are far apart. Tasks from a
range lie in between as often as below."""


@dataclass(frozen=True)
class SplitReport:
    """How many tasks of one split seem to be tasks of the training split."""

    family: str
    """The family's name."""
    split: Split
    """The split that was compared."""
    twins: int
    """Its tasks that have a twin among the training tasks."""
    tasks: int
    """Its tasks in all, and as many training tasks."""
    between: float
    """Pairs of tasks that are neither twins nor far apart, per pair of twins."""
    far: float
    """The share of pairs that are far apart."""

    @property
    def shared(self) -> bool:
        """Whether the two splits draw from one list of tasks, by `LEAST_TWINS`, `MOST_BETWEEN` and `LEAST_FAR`."""
        many = self.twins >= LEAST_TWINS * self.tasks
        return many and self.between <= MOST_BETWEEN and self.far >= LEAST_FAR

    def doubt(self) -> str:
        """Return in words what was found, and what to do."""
        return (
            f"family '{self.family}': {self.twins} of {self.tasks} tasks of the split '{self.split}' seem to be among "
            f"{self.tasks} tasks of 'train': what is learned from the one predicts the other as well as itself. So "
            "errors on new tasks would be errors on known ones. The likely cause is a list, such as of gains or "
            "terrains, from which all splits draw: give each split entries of its own"
        )


def check_splits(family: TaskFamily, rng: np.random.Generator) -> SplitReport | None:
    """Test whether the splits `train` and `test` draw their tasks from one list. It takes a second and no network.

    Each training task is learned by kernel ridge regression, and predicts samples of each test task. A list shows as a
    gap: pairs of tasks are the same or far apart. With a lot of noise in y, or a long list, the gap cannot be seen.

    Args:
        family: The family.
        rng: Source of every random draw.

    Returns:
        The report. None for recorded tasks: their splits are named.

    """
    if isinstance(family, FiniteFamily):
        return None
    sets, size = len(family.query_sets), _SAMPLES * rows_per_sample(family)
    batches = [draw_tasks(family, rng, _TASKS, 1, 2 * _SAMPLES * sets, split) for split in ("train", "test")]
    x = scaled(family.inputs, np.concatenate([batch.query_x[:, : 2 * size] for batch in batches]))
    y = targets(family, np.concatenate([batch.query_y[:, : 2 * size] for batch in batches]))
    # (settings, known tasks, asked tasks, fields)
    errors = np.stack(
        [_errors(family, x[i, :size], y[i, :size], x[_TASKS:, size:], y[_TASKS:, size:]) for i in range(2 * _TASKS)], 1
    )
    own = np.diagonal(errors[:, _TASKS:], axis1=1, axis2=2).swapaxes(1, 2)  # (settings, tasks, fields)
    best = np.log(own).mean((1, 2)).argmin()
    ratios = (errors[best, :_TASKS] / own[best]).max(-1)  # twins are alike in every field
    same, far = ratios < _TWIN, ratios >= _FAR
    between = float((~same & ~far).sum() / max(same.sum(), 1))
    return SplitReport(family.name, "test", int(same.any(0).sum()), _TASKS, between, float(far.mean()))


def _errors(family: TaskFamily, x: Floats, y: Floats, asked: Floats, wanted: Floats) -> Floats:
    """Return the squared errors `(settings, tasks, fields)` of asked tasks, learned from one task.

    Medians over the samples: a few samples at the edge of what was learned would decide a mean.
    """
    mean = y.mean(0)
    found = residuals(x, y - mean, asked.reshape(-1, asked.shape[-1]), (wanted - mean).reshape(-1, wanted.shape[-1]))
    squares = np.square(np.array(found)).reshape(len(found), *wanted.shape)
    parts = field_slices(family.outputs).values()
    return np.stack([np.median(squares[..., part], (2, 3)) for part in parts], -1) + 1e-12
