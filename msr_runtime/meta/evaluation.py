"""Errors on fresh tasks: in the support's own region, over the group orbit and everywhere.

Works on any `Adapt`, so that torch learners and exported bundles are scored by the same code.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.meta.structure import equivariance_error
from msr_runtime.task import Adapt, Split, SymmetricFamily, TaskFamily, rows_a_sample


class Scores(NamedTuple):
    """Errors of every task; each array is `(tasks,)`.

    An error is the squared error over the mean square of y over all tasks, both in units of the output fields' ranges;
    for labels it is the share of wrong answers.
    """

    sets: dict[str, NDArray[np.float64]]
    """By query set, in the family's order: the first is the support's own region, the last the widest."""
    orbit: NDArray[np.float64]
    """On the first query set, every sample turned by a random group element."""
    equivariance: NDArray[np.float64]
    """`structure.equivariance_error` of the adapted network; NaN where the family has no group."""


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
    """Adapt to each of `tasks` fresh tasks and measure the errors; `queries` is per query set.

    The same `rng` state gives the same tasks and samples, so that two methods compare in pairs.
    """
    batch = family.sample(rng, tasks, shots, queries * len(family.query_sets), split)
    queries *= rows_a_sample(family)
    orbit_x, orbit_y = family.augment(rng, batch.query_x[:, :queries], batch.query_y[:, :queries])
    group = family.group() if isinstance(family, SymmetricFamily) else None
    parts = {name: slice(i * queries, (i + 1) * queries) for i, name in enumerate(family.query_sets)}
    rows = np.empty((tasks, len(parts) + 2))
    for task in range(tasks):
        predict = adapt(batch.support_x[task], batch.support_y[task])
        sets = [
            score_sample(family, predict(batch.query_x[task, part]), batch.query_y[task, part])
            for part in parts.values()
        ]
        orbit = score_sample(family, predict(orbit_x[task]), orbit_y[task])
        asymmetry = np.nan if group is None else equivariance_error(predict, group, batch.query_x[task, :16])
        rows[task] = [*sets, orbit, asymmetry]
    zero = np.zeros(1)
    sizes = [1.0] * (len(parts) + 1)
    if family.loss != "cross_entropy":
        sizes = [score_sample(family, zero, batch.query_y[:, part]) for part in parts.values()]
        sizes.append(score_sample(family, zero, orbit_y))
    relative = rows[:, :-1] / np.array(sizes)
    return Scores({name: relative[:, i] for i, name in enumerate(parts)}, relative[:, -1], rows[:, -1])


def score_sample(family: TaskFamily, predicted: NDArray, wanted: NDArray) -> float:
    """Return the mean squared error of predictions `(..., *y)` in half ranges, or the share of wrong labels."""
    if family.loss == "cross_entropy":
        return float(np.mean(predicted.argmax(-1) != wanted))
    half_range = np.concatenate([np.full(field.size, (field.high - field.low) / 2) for field in family.outputs])
    errors = (predicted - wanted).reshape(-1, half_range.size)
    return float(np.mean(np.sum((errors / half_range) ** 2, axis=-1)))
