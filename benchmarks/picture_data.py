"""Measures what the demo's pictures show; `demo.py` stores it and `pictures.py` draws it."""

from typing import Any

import numpy as np

from msr_envs.ring_nav.family import Paths, RingNav
from msr_envs.ring_nav.operator import RingTask
from msr_runtime.meta.evaluation.scores import output_scales, score_sample
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.task import Adapt, Predict

EPISODES = 6
STRIDE = 6
"""One of so many control steps of a path is kept."""


def paths(family: RingNav, task: RingTask, before: Predict, after: Predict) -> dict[str, Any]:
    """Drive the same worlds unadapted, adapted and by the operator: what `draw` shows as `paths`, in m."""
    driven = {"before adaptation": before, "after ten samples": after, "the operator": None}
    columns = {
        title: family.drive(task, predict, np.random.default_rng(7), EPISODES) for title, predict in driven.items()
    }
    world = columns["the operator"].world
    return {
        "goals": _rounded(world.goal, 2),
        "centres": _rounded(world.centers, 2),
        "radii": _rounded(world.radii, 2),
        "columns": {title: _column(each) for title, each in columns.items()},
    }


def orbit_errors(family: RingNav, adapt: Adapt, tasks: int = 30) -> list[float]:
    """Measure the relative error on sector queries turned by each group element in turn, as many as its order."""
    batch = family.sample(np.random.default_rng(4), tasks, 10, 64, "test")
    x, y = batch.query_x[:, :32], batch.query_y[:, :32]
    group, unit = family.group(), output_scales(family, y)
    errors = np.empty((group.order, tasks))
    for task in range(tasks):
        predict = adapt(batch.support_x[task], batch.support_y[task])
        for element in range(group.order):
            turned_x = (x[task] @ group.inputs[element].T).astype(np.float32)
            turned_y = (y[task] @ group.outputs[element].T).astype(np.float32)
            errors[element, task] = score_sample(family, unit, predict(turned_x), turned_y)
    size = np.mean([score_sample(family, unit, np.zeros_like(each), each) for each in y])
    return _rounded(errors.mean(1) / size, 5)


def symmetry(learner: Learner) -> list[list[float]]:
    """Return the U `(weights, k)` of the output layer's weight, over its largest entry."""
    matrices = [p for name, p in learner.network.named_parameters() if ".weight." in name and name.endswith(".U")]
    U = matrices[-1].detach().numpy()
    return _rounded(U / np.abs(U).max(), 2)


def _column(driven: Paths) -> dict[str, Any]:
    return {"positions": _rounded(driven.positions[:, ::STRIDE], 2), "reached": driven.reached.tolist()}


def _rounded(values: Any, digits: int) -> Any:
    return np.round(np.asarray(values, np.float64), digits).tolist()
