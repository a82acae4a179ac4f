"""In what precision a learner is stored: what rounding costs is measured on validation tasks first."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap

from msr_export.rounding import constants, rounded
from msr_runtime.bundle.rounding import MOST_COST, Precision, Rounding
from msr_runtime.meta.evaluation.scores import draw_scored, output_scales, score_sample
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.normalization import Normalization
from msr_runtime.task import TaskFamily

_TASKS = 100
"""Most validation tasks. Both errors are of the same tasks, so their ratio is known far better than either."""
_QUERIES = 32
"""Queries by which an adapted network is judged."""
_AT_ONCE = 50
"""Tasks that adapt at once."""
_NUMBERS = 2**21
"""Most numbers of x of the tasks that adapt at once."""


def choose_precision(
    learner: Learner,
    normalization: Normalization,
    family: TaskFamily,
    *,
    shots: int,
    seed: int,
    tasks: int,
    asked: Precision | None = None,
) -> tuple[Learner, Rounding | None]:
    """Round a learner's constants, if that costs next to nothing or was asked for.

    Args:
        learner: The learner, as in `export_bundle`.
        normalization: The normalization under which it was trained.
        family: The family of the tasks.
        shots: Support samples per task in meta-training, as the family counts them.
        seed: The seed of the draws.
        tasks: How many tasks, at most.
        asked: A precision that is taken whatever it costs. None takes float16 if it costs at most `MOST_COST`.

    Returns:
        The learner, rounded or as it was, and what was measured. None where nothing is to be rounded.

    """
    if asked == "float32" or not constants(learner):
        return learner, None
    tried: Precision = asked or "float16"
    near, kept = rounded(learner, tried)
    rng, tasks = np.random.default_rng(seed), min(tasks, _TASKS)
    batch, orbit = draw_scored(family, rng, tasks, shots, _QUERIES, "validation")
    support = normalization.normalize(batch.support_x, batch.support_y)
    error, float32_error = (
        float(f"{_error(each, normalization, family, support, orbit):.6g}") for each in (near, learner)
    )
    found = Rounding(precision=tried, tried=tried, kept=kept, tasks=tasks, error=error, float32_error=float32_error)
    if asked or found.cost <= MOST_COST:
        return near, found
    return learner, found.model_copy(update={"precision": "float32"})


def _error(
    learner: Learner,
    normalization: Normalization,
    family: TaskFamily,
    support: tuple[NDArray, NDArray],
    queries: tuple[NDArray, NDArray],
) -> float:
    """The mean error over the tasks after adapting; where it is not finite, the robot stays at v0, whose error counts.

    Args:
        learner: The learner.
        normalization: Its normalization.
        family: The family.
        support: Normalized x and y of the support sets, `(tasks, shots, ...)`.
        queries: x and y of the queries in raw units, `(tasks, queries, ...)`.

    """

    def of_task(x: Tensor, y: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        return learner(learner.adapt(x, y), query_x), learner(learner.start(), query_x)

    x, y = queries
    tensors = [torch.from_numpy(each) for each in (*support, normalization.normalize_x(x))]
    at_once = max(1, min(_AT_ONCE, _NUMBERS // (tensors[0][0].numel() + tensors[2][0].numel())))
    with torch.no_grad():
        parts = [
            vmap(of_task)(*(each[first : first + at_once] for each in tensors)) for first in range(0, len(x), at_once)
        ]
        adapted, at_v0 = (torch.cat(each) for each in zip(*parts, strict=True))
        if learner.classifies:
            scores, labels = torch.stack([adapted, at_v0]), torch.from_numpy(y)
            each = [
                torch.nn.functional.cross_entropy(side.movedim(-1, 1), labels, reduction="none").mean(1).numpy()
                for side in scores
            ]
        else:
            scales = output_scales(family, y)
            raw = [normalization.raw_y(side.numpy()) for side in (adapted, at_v0)]
            each = [
                np.array([score_sample(family, scales, *pair) for pair in zip(side, y, strict=True)]) for side in raw
            ]
            size = score_sample(family, scales, np.zeros(1), y) or 1.0
            each = [side / size for side in each]
    after, before = each
    return float(np.where(np.isfinite(after), after, before).mean())
