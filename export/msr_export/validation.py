"""What adapting to clean tasks leads to: the figures that the robot takes its limits from."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import vmap

from msr_export.freeze import flatten
from msr_export.shots import MANY_SHOTS, with_most_shots
from msr_runtime.bundle.manifest import ShotFigures, Validation
from msr_runtime.bundle.spread import spread
from msr_runtime.families import EpisodicFamily, queries_beside, rows_per_sample
from msr_runtime.meta.evaluation.scores import output_scales, score_sample
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.prototypes import ProtoNets
from msr_runtime.normalization import Normalization
from msr_runtime.task import TaskBatch, TaskFamily

TASKS = 200
"""Validation tasks, unless the caller asks for fewer."""
SHOTS = (1, 2, 5, 10, 20, MANY_SHOTS)
"""Numbers of support samples. The shots of meta-training are measured too."""
_QUERIES = 32
"""Samples per query set that an adapted network is judged by."""
_IMAGES, _FEWEST = 2**29, 20
"""Bytes of the images of all validation tasks, if they are episodes of images, and the fewest such tasks."""
_AT_ONCE = 50
"""Tasks that adapt at once. More would need more memory, and hardly less time."""
_NUMBERS = 2**21
"""Most numbers of x of the tasks that adapt at once: the maps of a network of filters are many times as large."""
_EMBEDDED_AT_ONCE = 256
"""Samples that are embedded at once."""


class _Outcome(NamedTuple):
    """What adapting led to, one number per task: `(tasks,)`."""

    before: NDArray
    """Support loss before the first step."""
    after: NDArray
    """Support loss after the last step."""
    move: NDArray
    """`|v - v0| / |v0|`, or `|v|` where v0 is zero."""
    spread: NDArray
    """The spread of the support inputs, see `msr_runtime.bundle.spread`."""
    error_at_v0: NDArray
    """Error on the queries before adapting."""
    error: NDArray
    """Error on the queries after adapting; that at v0 where the adaptation is not finite."""

    @property
    def helped(self) -> NDArray:
        """Whether the adaptation is finite, and no worse than `v0` on its support set and on its queries."""
        finite = np.isfinite(self.after) & np.isfinite(self.move)
        return finite & (self.after <= self.before) & (self.error <= self.error_at_v0)


def measure_validation(
    learner: Learner, normalization: Normalization, family: TaskFamily, *, shots: int, seed: int, tasks: int = TASKS
) -> Validation | None:
    """Adapt to clean validation tasks with several numbers of shots, and return what came out.

    Each task has two support sets: one as in meta-training, and one from the family's last query set, because a robot
    that adapts while it acts learns from wherever it is. Samples from every direction fit less closely, so support
    sets as narrow as those of meta-training have limits of their own. The errors are those of the first support set.

    Args:
        learner: The learner, as in `export_bundle`.
        normalization: The normalization under which it was trained.
        family: The family of the tasks.
        shots: Support samples per task in meta-training.
        seed: The seed of the draws.
        tasks: How many tasks. Of episodes of large images, fewer are taken, so that they fit into the memory.

    Returns:
        The figures, or None if no adaptation helped: limits would refuse everything.

    """
    rows = rows_per_sample(family)
    batch, most = _draw(family, shots, seed, tasks)
    learner, read = _reader(learner, normalization)
    queries = _samples(read, *_queries(batch, family, rows))
    own = _samples(read, batch.support_x, batch.support_y)
    # The queries that judge are the last of each query set. Those before them are the other support set.
    part = batch.query_x.shape[1] // len(family.query_sets)
    begin = part * (len(family.query_sets) - 1)
    supports = [own]
    # A class has few stored images, all of one region: another support set would be the images that judge.
    if not isinstance(family, EpisodicFamily):
        supports.append(_samples(read, batch.query_x[:, begin:], batch.query_y[:, begin:]))
    figures, error_at_v0 = [], 0.0
    for count in sorted({shots, *SHOTS}):
        if count > most:
            break
        outcomes = [_adapt(learner, normalization, family, each.first(count * rows), queries) for each in supports]
        helped, after, move, spreads = (
            np.concatenate([getattr(outcome, name) for outcome in outcomes])
            for name in ("helped", "after", "move", "spread")
        )
        if not helped.any():
            continue
        trained, error_at_v0 = outcomes[0], float(np.median(outcomes[0].error_at_v0))
        usual_spread = _rounded_up(float(trained.spread.max()))
        usual = helped & (spreads <= usual_spread)
        figures.append(
            ShotFigures(
                shots=count * rows,
                usual_spread=usual_spread,
                usual_loss=_rounded_up(float(after[usual].max(initial=0.0))),
                usual_move=_rounded_up(float(move[usual].max(initial=0.0))),
                largest_loss=_rounded_up(float(after[helped].max())),
                largest_move=_rounded_up(float(move[helped].max())),
                median_error=_rounded(float(np.median(trained.error))),
                high_error=_rounded(float(np.percentile(trained.error, 95))),
                worse=_rounded(float((trained.error > trained.error_at_v0).mean())),
            )
        )
    if not figures:
        return None
    return Validation(tasks=len(batch.support_x), error_at_v0=_rounded(error_at_v0), by_shots=tuple(figures))


class _Samples(NamedTuple):
    """Support sets or queries of all tasks, `(tasks, rows, ...)`."""

    x: NDArray
    """In raw units."""
    y: NDArray
    """In raw units."""
    read: torch.Tensor
    """What the learner reads of x."""
    wanted: torch.Tensor
    """Normalized y."""

    def first(self, rows: int) -> "_Samples":
        """The support sets cut to their first rows."""
        return _Samples(self.x[:, :rows], self.y[:, :rows], self.read[:, :rows], self.wanted[:, :rows])


_Read = Callable[[NDArray, NDArray], tuple[torch.Tensor, torch.Tensor]]
"""From x and y in raw units to what a learner reads of them."""


def _reader(learner: Learner, normalization: Normalization) -> tuple[Learner, _Read]:
    """The part of a learner that a support set moves, and what it reads.

    A class mean is taken in an embedding that nothing moves, so each image is embedded once for all support sets.
    """
    embedding, rest = learner.apart() if isinstance(learner, ProtoNets) else (nn.Identity(), learner)

    def read(x: NDArray, y: NDArray) -> tuple[torch.Tensor, torch.Tensor]:
        flat = x.reshape(-1, *learner.inputs)
        parts = (flat[first : first + _EMBEDDED_AT_ONCE] for first in range(0, len(flat), _EMBEDDED_AT_ONCE))
        with torch.no_grad():
            seen = torch.cat([embedding(torch.from_numpy(normalization.normalize_x(part))) for part in parts])
        return seen.unflatten(0, x.shape[:2]), torch.from_numpy(normalization.normalize_y(y))

    return rest, read


def _samples(read: _Read, x: NDArray, y: NDArray) -> _Samples:
    return _Samples(x, y, *read(x, y))


def _draw(family: TaskFamily, shots: int, seed: int, tasks: int) -> tuple[TaskBatch, int]:
    """Draw the tasks with as many support samples as the family gives, and return both.

    A family of recorded tasks has only so many samples per task. Of stored images, each side gets half of each class.
    """
    most, sets = max(shots, *SHOTS), len(family.query_sets)
    if isinstance(family, EpisodicFamily):
        most = max(shots, min(most, family.examples // 2))
        queries = queries_beside(family, most, _QUERIES)
        size = (most + queries) * family.ways * 4 * family.images[0].size  # bytes of a task, float32
        tasks = min(tasks, max(_FEWEST, _IMAGES // size))
        return family.sample(np.random.default_rng(seed), tasks, most, queries, "validation"), most

    def draw(count: int) -> tuple[TaskBatch, int]:
        batch = family.sample(np.random.default_rng(seed), tasks, count, (count + _QUERIES) * sets, "validation")
        return batch, count

    return with_most_shots(draw, shots, most)


def _queries(batch: TaskBatch, family: TaskFamily, rows: int) -> list[NDArray]:
    """The last queries of each query set, side by side: x and y."""
    sets, judging = len(family.query_sets), _QUERIES * rows
    parts = [np.split(array, sets, axis=1) for array in (batch.query_x, batch.query_y)]
    return [np.concatenate([each[:, -judging:] for each in part], 1) for part in parts]


def _adapt(
    learner: Learner, normalization: Normalization, family: TaskFamily, support: _Samples, queries: _Samples
) -> _Outcome:
    """Adapt to all support sets, some tasks at once."""
    v0 = flatten(learner, learner.start())
    scale = float(v0.norm()) or 1.0

    def of_task(x: torch.Tensor, y: torch.Tensor, query_x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        start, adapted = learner.start(), learner.adapt(x, y)
        losses = (learner.support_loss(tensors, x, y) for tensors in (start, adapted))
        move = (flatten(learner, adapted) - v0).norm() / scale
        return *losses, move, learner(start, query_x), learner(adapted, query_x)

    tensors = support.read, support.wanted, queries.read
    at_once = max(1, min(_AT_ONCE, _NUMBERS // (support.read[0].numel() + queries.read[0].numel())))
    with torch.no_grad():
        parts = [
            vmap(of_task)(*(each[first : first + at_once] for each in tensors))
            for first in range(0, len(queries.x), at_once)
        ]
    before, after, move, at_v0, adapted = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
    outputs = [each if learner.classifies else normalization.raw_y(each) for each in (at_v0, adapted)]
    scales = output_scales(family, queries.y)
    size = 1.0 if learner.classifies else score_sample(family, scales, np.zeros(1), queries.y) or 1.0
    errors = [
        np.array([score_sample(family, scales, y, wanted) for y, wanted in zip(each, queries.y, strict=True)]) / size
        for each in outputs
    ]
    # The robot refuses what is not finite, and goes on with v0.
    acts = np.isfinite(after) & np.isfinite(move) & np.isfinite(errors[1])
    input_scale = np.asarray(normalization.input_scale)
    spreads = np.array([spread(input_scale, x) for x in support.x])
    return _Outcome(before, after, move, spreads, errors[0], np.where(acts, errors[1], errors[0]))


def _rounded(value: float) -> float:
    """Four digits: more would differ between machines, and no limit needs them."""
    return float(f"{value:.4g}")


def _rounded_up(value: float) -> float:
    """Four digits, and never less than the value: a limit holds for the adaptation that it was measured on."""
    return _rounded(1.0005 * value)
