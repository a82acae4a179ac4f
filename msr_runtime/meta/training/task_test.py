"""The test whether the support set of a task tells the task. Without this, training goes on and nothing adapts."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from msr_runtime.errors import FamilyError
from msr_runtime.families import FiniteFamily, takes_windows
from msr_runtime.meta.training.drawing import draw_tasks
from msr_runtime.meta.training.kernel_ridge import Floats, residuals, scaled, targets
from msr_runtime.meta.training.students_t import paired_t, tasks_to_test
from msr_runtime.task import TaskBatch, TaskFamily, field_slices

Verdict = Literal["tells", "another unit", "another task", "nothing", "alike"]
"""What the support set of a task says of its queries: what no other support set says; the same, but much less than
other queries say; nothing, though queries tell each other; nothing, and nor do queries; or what any other support set
says too."""

LEAST_T = 3.0
"""A support set tells its task if that of another task is worse, surely so by this Student's t, in a field of y."""

_SHOTS, _LEAST_SHOTS, _LEAST_TASKS = 96, 4, 3
_APART = 1.5
"""Queries come from another task than the support set if other queries predict them better by this factor."""
_UNIT, _UNIT_EXCESS = 3.0, 1e-3
"""The support set is in another unit if other queries predict the queries better by this factor, and by this share of
their variance."""
_SCALE = 3.0
"""A field of the support set is named if its numbers are so many times those of the queries."""
_LEARNED = 0.9
"""From this share of its variance on, y is not predicted at all."""


@dataclass(frozen=True)
class TaskReport:
    """How well y of the queries is predicted from what: mean squared error over variance, geometric mean over tasks."""

    family: str
    """The family's name."""
    field: str
    """The output field for which the task's own support set helps most surely."""
    own: float
    """From the support set of the same task."""
    other: float
    """From the support set of another task."""
    queries: float
    """From other queries of the same task."""
    t: float
    """Student's t of the logarithm of `other / own`, paired over the tasks, in the field where it is largest. Of fewer
    than 24 tasks, the one that would be as sure with 24."""
    scale: str = ""
    """The field of the support set whose scale is not that of the queries, in words. Empty if there is none."""

    @property
    def verdict(self) -> Verdict:
        """What the support set of a task says of its queries."""
        if self.t >= LEAST_T:
            far = self.own > _UNIT * self.queries and self.own - self.queries > _UNIT_EXCESS
            return "another unit" if far else "tells"
        if self.queries * _APART < self.own:
            return "another task"
        return "nothing" if self.own >= _LEARNED else "alike"

    def doubt(self) -> str:
        """Return in words why there may be nothing to adapt to, or not enough, and what to do."""
        if self.verdict == "another unit":
            return (
                f"family '{self.family}': the support set of a task predicts its queries much worse than other queries "
                f"of the same task do: the error of '{self.field}' is {self.own:.2g} of its variance by the support "
                f"set and {self.queries:.2g} by queries. The likely cause is that the support set is in another unit, "
                f"frame or order{self.scale and f', since {self.scale}'}: let `sample` make both in the same way"
            )
        cause = {
            "tells": "",
            "another unit": "",
            "another task": f"From other queries of the same task it is {self.queries:.2g}, so the likely cause is "
            "that support and queries are of different tasks, units or order: let `sample` make both in the same way",
            "nothing": "The likely cause is that x lacks what y depends on, or that rows of x and y do not belong "
            "together: look at a few samples",
            "alike": "The likely cause is that all tasks are alike, since what tells robots apart does not reach the "
            "samples: then there is nothing to adapt to",
        }[self.verdict]
        return (
            f"family '{self.family}': the support set of a task predicts its queries no better than that of another "
            f"task: the error of '{self.field}' is {self.own:.2g} of its variance by its own and {self.other:.2g} by "
            f"another's (t {self.t:.1f}). {cause}{self.scale and f'; {self.scale}'}"
        )


def check_tasks(family: TaskFamily, rng: np.random.Generator) -> TaskReport | None:
    """Test whether the support set of a task tells more about its queries than that of another task does.

    Each task is learned by kernel ridge regression from its support set. This predicts queries of its first query set,
    and those of another task. It takes a second and no network:

        print(check_tasks(load_family("ring-nav"), np.random.default_rng(0)).verdict)  # tells

    Args:
        family: The family. Tasks of its split `train` are drawn.
        rng: Source of every random draw.

    Returns:
        The report. None if there are too few recorded tasks, or samples of them, to tell.

    Raises:
        FamilyError: y is the same in every sample, so there is nothing to learn.

    """
    sets = len(family.query_sets)
    shots = min(_SHOTS, family.examples // sets // 3) if isinstance(family, FiniteFamily) else _SHOTS
    if shots < _LEAST_SHOTS or (tasks := tasks_to_test(family)) < _LEAST_TASKS:
        return None
    batch = draw_tasks(family, rng, tasks, shots, 2 * shots * sets, "train")
    _require_changing(family, batch.query_y)
    count = 2 * batch.support_x.shape[1]  # rows: a sample may have several
    x = scaled(family.inputs, np.concatenate([batch.support_x, batch.query_x[:, :count]], 1))
    y = targets(family, np.concatenate([batch.support_y, batch.query_y[:, :count]], 1))
    size = count // 2
    support, queries = (x[:, :size], y[:, :size]), (x[:, size:], y[:, size:])
    rest = (queries[0][:, size:], queries[1][:, size:])
    own, other, within = (
        _errors(family, one, another)
        for one, another in (
            (support, queries),
            ((np.roll(support[0], 1, 0), np.roll(support[1], 1, 0)), queries),
            ((queries[0][:, :size], queries[1][:, :size]), rest),
        )
    )
    best = np.log(own).mean((1, 2)).argmin()
    t = paired_t(np.log(other[best] / own[best]))
    worse = np.log(own[best] / within[best])
    # in a log, what comes later may differ by itself
    unit = np.where(paired_t(worse) >= LEAST_T, worse.mean(0), 0.0) * (not takes_windows(family))
    field = int(unit.argmax() if unit.max() > np.log(_UNIT) else t.argmax())
    figures = (np.exp(np.log(each[..., field]).mean(-1)) for each in (own[best], other[best], within))
    mean_own, mean_other, mean_within = (float(figure.min()) for figure in figures)
    scale = _another_scale(family, batch)
    name = family.outputs[field].name
    return TaskReport(family.name, name, mean_own, mean_other, mean_within, float(t.max()), scale)


def _another_scale(family: TaskFamily, batch: TaskBatch) -> str:
    """Say which field has another scale in the support sets than in the queries of the first set. Empty if none has."""
    found = []
    for fields, support, queries in (
        (family.inputs, batch.support_x, batch.query_x),
        (family.outputs if family.loss != "cross_entropy" else (), batch.support_y, batch.query_y),
    ):
        first = queries.shape[1] // len(family.query_sets)
        flat = [part.reshape(*part.shape[:2], -1).astype(np.float64) for part in (support, queries[:, :first])]
        for field in fields:
            parts = [part[..., field_slices(fields)[field.name]] for part in flat]
            known, asked = (float(np.sqrt(np.mean(np.square(part)))) for part in parts)
            if min(known, asked) > 0:
                found.append((abs(np.log(known / asked)), known / asked, field.name))
    size, ratio, name = max(found, default=(0.0, 1.0, ""))
    return f"its '{name}' is about {ratio:.2g} times as large as that of the queries" if size > np.log(_SCALE) else ""


def _errors(family: TaskFamily, known: tuple[Floats, Floats], asked: tuple[Floats, Floats]) -> Floats:
    """Return MSE over variance, `(settings, tasks, fields)`, of each task's asked samples learned from the known."""
    parts = list(field_slices(family.outputs).values())
    variance = [asked[1][..., part].var(1).mean() + 1e-12 for part in parts]
    errors = []
    for x, y, asked_x, asked_y in zip(*known, *asked, strict=True):
        mean = y.mean(0)
        found = residuals(x, y - mean, asked_x, asked_y - mean)
        errors.append([[np.mean(each[:, p] ** 2) / v for p, v in zip(parts, variance, strict=True)] for each in found])
    return np.array(errors).swapaxes(0, 1) + 1e-12


def _require_changing(family: TaskFamily, y: np.ndarray) -> None:
    if (y == y[:1, :1]).all():
        names = ", ".join(f"'{field.name}'" for field in family.outputs)
        raise FamilyError(
            f"family '{family.name}': y ({names}) is {(y[0, 0] + 0).tolist()} in every sample, so there is nothing to "
            "learn; the likely cause is a simulation that stands still, a sensor that was off, or a unit that rounds "
            "to zero"
        )
