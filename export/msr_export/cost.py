"""Choose in what precision a learner is stored, by what rounding costs on validation tasks."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap

from msr_export.rounding import constants, rounded
from msr_runtime.bundle.rounding import MOST_COST, Precision, Rounding
from msr_runtime.families import CountedFamily
from msr_runtime.meta.evaluation.scores import draw_scored, output_scales, score_sample
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array, TaskFamily

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
    judged = JudgedTasks(normalization, family, shots=shots, seed=seed, tasks=tasks)
    error, float32_error = (mean_error(judged.errors(each)) for each in (near, learner))
    found = Rounding(
        precision=tried, tried=tried, kept=kept, tasks=judged.tasks, error=error, float32_error=float32_error
    )
    if asked or found.cost <= MOST_COST:
        return near, found
    return learner, found.model_copy(update={"precision": "float32"})


def mean_error(errors: NDArray[np.float64]) -> float:
    """The mean, in the digits that the manifest holds."""
    return float(f"{errors.mean():.6g}")


class JudgedTasks:
    """Validation tasks, drawn once, on which learners are compared: the ratio of two errors is known better than each.

    Args:
        normalization: The learners' normalization.
        family: The family of the tasks.
        shots: Support samples per task, as the family counts them.
        seed: The seed of the draws.
        tasks: How many tasks, at most.

    """

    def __init__(self, normalization: Normalization, family: TaskFamily, *, shots: int, seed: int, tasks: int) -> None:
        self.normalization, self.family = normalization, family
        self.shots, draws = shots, min(tasks, _TASKS)
        # A family of recordings repeats its tasks, with other samples of them.
        self.tasks = min(draws, family.count_tasks("validation")) if isinstance(family, CountedFamily) else draws
        rng = np.random.default_rng(seed)
        batch, orbit = draw_scored(family, rng, draws, shots, _QUERIES, "validation")
        self.each = orbit[0].shape[1]
        self.queries = tuple(
            np.concatenate(side, 1) for side in zip(orbit, (batch.query_x, batch.query_y), strict=True)
        )
        self.support = normalization.normalize(batch.support_x, batch.support_y)

    def errors(self, learner: Learner) -> NDArray[np.float64]:
        """The error over the orbit of each task after adapting, `(tasks,)`."""
        return self.by_set(learner)[0][0]

    def by_set(self, learner: Learner) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The errors over the orbit and on each query set, after adapting and without, each `(1 + sets, tasks)`.

        Where what adapted is not finite, the robot stays at v0, whose error counts.
        """

        def of_task(x: Tensor, y: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
            return learner(learner.adapt(x, y), query_x), learner(learner.start(), query_x)

        x = self.queries[0]
        tensors = [torch.from_numpy(each) for each in (*self.support, self.normalization.normalize_x(x))]
        at_once = max(1, min(_AT_ONCE, _NUMBERS // (tensors[0][0].numel() + tensors[2][0].numel())))
        with torch.no_grad():
            firsts = range(0, len(x), at_once)
            parts = [vmap(of_task)(*(each[first : first + at_once] for each in tensors)) for first in firsts]
            adapted, at_v0 = (torch.cat(each) for each in zip(*parts, strict=True))
        sides = [self._judged(learner, side.numpy()) for side in (adapted, at_v0)]
        return np.where(np.isfinite(sides[0]), *sides), sides[1]

    def _judged(self, learner: Learner, predicted: Array) -> NDArray[np.float64]:
        """The errors of normalized predictions for all queries: `(1 + sets, tasks)`."""
        wanted = self.queries[1]
        if learner.classifies:
            scores, labels = torch.from_numpy(predicted), torch.from_numpy(wanted)
            losses = torch.nn.functional.cross_entropy(scores.movedim(-1, 1), labels, reduction="none")
            return losses.unflatten(1, (-1, self.each)).mean(2).numpy().T
        scales, raw, found = output_scales(self.family, wanted[:, : self.each]), self.normalization.raw_y(predicted), []
        for first in range(0, wanted.shape[1], self.each):
            y, own = (side[:, first : first + self.each] for side in (raw, wanted))
            size = score_sample(self.family, scales, np.zeros(1), own) or 1.0
            found.append([score_sample(self.family, scales, *pair) / size for pair in zip(y, own, strict=True)])
        return np.array(found)
