"""Errors on fresh tasks: in the region of the support set, over the group orbit, and everywhere.

The orbit of a sample is the set of its images under all group elements. The code works on any `Adapt`, so that torch
learners and exported bundles are scored in the same way.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.families import queries_beside, rows_per_sample
from msr_runtime.meta.symmetry.finding import known_group
from msr_runtime.meta.symmetry.measures import equivariance_error
from msr_runtime.task import Adapt, Group, Split, TaskBatch, TaskFamily, field_slices, width


class Scores(NamedTuple):
    """Errors of every task. Each array is `(tasks,)`, float64.

    An error is relative: the mean squared error divided by the mean square of y over all tasks, both in
    `output_scales`. Always predicting zero has a mean error of 1. For labels, an error is the share of wrong answers.
    """

    sets: dict[str, NDArray[np.float64]]
    """Error per query set, in the family's order: the first is the support set's own region, the last the widest."""
    orbit: NDArray[np.float64]
    """Error on the first query set, with each sample moved by a random group element."""
    equivariance: NDArray[np.float64]
    """Equivariance error of the adapted network: how far `f(g x)` is from `g f(x)`, relative to the output (see
    `msr_runtime.meta.symmetry.equivariance_error`). NaN if the family's group is not known."""
    over_variance: dict[str, NDArray[np.float64]]
    """Error per query set, divided by the variance of y over all tasks in place of its mean square. Always predicting
    the mean has a mean error of 1. It differs from `sets` where y has an offset. Empty for labels."""


def score(
    family: TaskFamily,
    adapt: Adapt,
    rng: np.random.Generator,
    *,
    tasks: int = 100,
    shots: int = 10,
    queries: int = 64,
    split: Split = "test",
) -> Scores:
    """Adapt to fresh tasks and measure the errors.

    Equal states of `rng` give equal tasks and samples, so that two methods can be compared task by task.

    Args:
        family: The family.
        adapt: The method: `torch_adapt(...)`, or any other function from a support set to a predictor, in raw units.
        rng: Source of every random draw.
        tasks: Number of tasks.
        shots: Support samples per task.
        queries: Query samples per task and query set.
        split: The split that the tasks come from.

    Example:
        >>> import numpy as np
        >>> from msr_envs import load_family
        >>> from msr_runtime.meta import score
        >>> def adapt(x, y):  # in place of torch_adapt(...): ignores the support set and always predicts zero
        ...     return lambda x: np.zeros((len(x), 2), np.float32)
        >>> scores = score(load_family("ring-nav"), adapt, np.random.default_rng(0), tasks=20)
        >>> {name: errors.shape for name, errors in scores.sets.items()}
        {'sector': (20,), 'wide': (20,)}
        >>> print(f"{scores.orbit.mean():.3f}")
        1.000

    """
    return score_all(family, {"": adapt}, rng, tasks=tasks, shots=shots, queries=queries, split=split)[""]


def score_all(
    family: TaskFamily,
    methods: Mapping[str, Adapt],
    rng: np.random.Generator,
    *,
    tasks: int = 100,
    shots: int = 10,
    queries: int = 64,
    split: Split = "test",
) -> dict[str, Scores]:
    """Score several methods on the same tasks, which are drawn once.

    Args:
        family: The family.
        methods: The methods, by name.
        rng: As in `score`, and so are the other arguments.
        tasks: Number of tasks.
        shots: Support samples per task.
        queries: Query samples per task and query set.
        split: The split that the tasks come from.

    Returns:
        What `score` returns, by the method's name.

    """
    batch, orbit = draw_scored(family, rng, tasks, shots, queries, split)
    queries = orbit[0].shape[1]
    parts = {name: slice(i * queries, (i + 1) * queries) for i, name in enumerate(family.query_sets)}
    group = known_group(family)
    return {name: _scores(family, adapt, batch, orbit, parts, group) for name, adapt in methods.items()}


def draw_scored(
    family: TaskFamily, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split
) -> tuple[TaskBatch, tuple[NDArray, NDArray]]:
    """Draw tasks, and the orbit: x and y of the first query set, moved by random group elements.

    The arguments are those of `score_all`. Equal states of `rng` give equal draws. Of stored images, there are at most
    as many queries as a class has: more would be the same ones again.
    """
    queries = queries_beside(family, shots, queries)
    batch = family.sample(rng, tasks, shots, queries * len(family.query_sets), split)
    queries *= rows_per_sample(family)
    return batch, family.augment(rng, batch.query_x[:, :queries], batch.query_y[:, :queries])


def _scores(
    family: TaskFamily,
    adapt: Adapt,
    batch: TaskBatch,
    orbit: tuple[NDArray, NDArray],
    parts: Mapping[str, slice],
    group: Group | None,
) -> Scores:
    (orbit_x, orbit_y), tasks, scales = orbit, len(batch.support_x), output_scales(family, batch.query_y)
    rows = np.empty((tasks, len(parts) + 2))
    for task in range(tasks):
        predict = adapt(batch.support_x[task], batch.support_y[task])
        sets = [
            score_sample(family, scales, predict(batch.query_x[task, part]), batch.query_y[task, part])
            for part in parts.values()
        ]
        orbit_error = score_sample(family, scales, predict(orbit_x[task]), orbit_y[task])
        asymmetry = np.nan if group is None else equivariance_error(predict, group, batch.query_x[task, :16])
        rows[task] = [*sets, orbit_error, asymmetry]
    zero = np.zeros(1)
    sizes = [1.0] * (len(parts) + 1)
    if family.loss != "cross_entropy":
        sizes = [score_sample(family, scales, zero, batch.query_y[:, part]) for part in parts.values()]
        sizes.append(score_sample(family, scales, zero, orbit_y))
    relative = rows[:, :-1] / np.array([size or math.nan for size in sizes])
    over_variance = {}
    if family.loss != "cross_entropy":
        for i, (name, part) in enumerate(parts.items()):
            wanted = batch.query_y[:, part].astype(np.float64)
            variance = score_sample(family, scales, wanted.mean((0, 1)), wanted)
            over_variance[name] = rows[:, i] / (variance or math.nan)
    return Scores({name: relative[:, i] for i, name in enumerate(parts)}, relative[:, -1], rows[:, -1], over_variance)


def output_scales(family: TaskFamily, y: NDArray) -> NDArray[np.float64]:
    """Return the unit `(n,)` in which the error of each number of y is measured, so that all fields count alike.

    It is half the field's range. A field without bounds, as many simulators have it, has the standard deviation that
    its numbers have in y.

    Args:
        family: The family.
        y: Wanted outputs `(..., *y)` of many tasks. Labels have no unit.

    """
    if family.loss == "cross_entropy":
        return np.ones(0)
    rows, scales = y.reshape(-1, width(family.outputs)), []
    for field, part in zip(family.outputs, field_slices(family.outputs).values(), strict=True):
        unit = (field.high - field.low) / 2
        if not math.isfinite(unit):
            own = rows[:, part].astype(np.float64)
            unit = math.sqrt(np.mean((own - own.mean(0)) ** 2)) or 1.0
        scales.append(np.full(field.size, unit))
    return np.concatenate(scales)


def score_sample(family: TaskFamily, scales: NDArray[np.float64], predicted: NDArray, wanted: NDArray) -> float:
    """Return the mean squared error of predictions `(..., *y)` in `output_scales`, or the share of wrong labels."""
    if family.loss == "cross_entropy":
        return float(np.mean(predicted.argmax(-1) != wanted))
    errors = (predicted - wanted).reshape(-1, scales.size)
    return float(np.mean(np.sum((errors / scales) ** 2, axis=-1)))
