"""The golden example: an adaptation of torch that every robot replays when it loads the bundle."""

import copy
import math

import numpy as np
import torch

from msr_export.freeze import flatten
from msr_export.support import OWN_ERROR
from msr_runtime.bundle.store import Golden
from msr_runtime.families import EpisodicFamily
from msr_runtime.meta.evaluation.predictor import torch_adapt, torch_unadapted
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.normalization import Normalization
from msr_runtime.task import TaskBatch, TaskFamily

SAMPLES = 64
"""Query samples per query set. Of episodes of images, about so many images of all classes together."""
_CANDIDATES = 20
"""Tasks of which the best is taken if float32 computes none of them well."""


def draw_golden(learner: Learner, normalization: Normalization, family: TaskFamily, shots: int, seed: int) -> Golden:
    """Adapt in torch to a validation task, and return what came out.

    Some tasks say little about the graphs. If a robot drove straight ahead, its predictions may be a few hundredths of
    y's scale: small differences of terms near one. The rounding errors of these terms are as large as ever. Relative to
    such small predictions, they look like a wrong graph. So the example is the first task on which torch's float32
    differs from its float64 by at most a tenth of the tolerance of an export. If no task that is tried is so exact, the
    most exact one is taken.

    Args:
        learner: The learner, in float32.
        normalization: Its normalization.
        family: The family of the tasks.
        shots: Support samples of the task.
        seed: The seed of the draws.

    """
    rng, exact = np.random.default_rng(seed), copy.deepcopy(learner).double()
    best, least = None, math.inf
    samples = max(1, SAMPLES // family.ways) if isinstance(family, EpisodicFamily) else SAMPLES
    for _ in range(_CANDIDATES):
        batch = family.sample(rng, 1, shots, samples * len(family.query_sets), "validation")
        golden = _adapted(learner, normalization, batch)
        error = _own_error(exact, normalization, golden)
        if best is None or error < least:
            best, least = golden, error
        if least <= OWN_ERROR:
            break
    assert best is not None
    return best


def _adapted(learner: Learner, normalization: Normalization, batch: TaskBatch) -> Golden:
    """One real adaptation in torch: the support set and the queries of a task, with torch's results."""
    support_x, support_y, x = batch.support_x[0], batch.support_y[0], batch.query_x[0]
    normal_x, normal_y = normalization.normalize(support_x, support_y)
    support = torch.from_numpy(normal_x), torch.from_numpy(normal_y)
    adapted = learner.adapt(*support)
    losses = [learner.support_loss(tensors, *support).item() for tensors in (learner.start(), adapted)]
    return Golden(
        support_x=support_x,
        support_y=support_y,
        x=x,
        v=flatten(learner, adapted).numpy(),
        y=torch_adapt(learner, normalization)(support_x, support_y)(x),
        y0=torch_unadapted(learner, normalization)(support_x, support_y)(x),
        losses=np.array(losses, np.float32),
        # class means take one step
        steps=1 if learner.rule is None else learner.rule.steps,
    )


def _own_error(exact: Learner, normalization: Normalization, golden: Golden) -> float:
    """What float32 misses in the example, by the measure of its replay. `exact` is the learner in float64."""
    x, y, query_x = map(
        torch.from_numpy,
        (*normalization.normalize(golden.support_x, golden.support_y), normalization.normalize_x(golden.x)),
    )
    support = x.double(), y.double() if y.is_floating_point() else y
    try:
        with torch.no_grad():
            start, adapted = exact.start(), exact.adapt(*support)
            losses = torch.stack([exact.support_loss(tensors, *support) for tensors in (start, adapted)])
            predictions = [exact(tensors, query_x.double()) for tensors in (start, adapted)]
            v = flatten(exact, adapted)
    except RuntimeError:  # a network of one's own may hold float32 numbers that do not mix with others: nobody knows
        return 0.0
    y0, y_hat = (normalization.raw_y(each.numpy()) for each in predictions)
    return max(golden.errors(normalization, v=v.numpy(), losses=losses.numpy(), y0=y0, y=y_hat).values())
