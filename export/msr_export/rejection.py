"""How far images are from the prototypes of their own class, and of others: what the robot tells unknown images by."""

import numpy as np
import torch
from numpy.typing import NDArray

from msr_runtime.bundle.rejection import Refused, Rejection
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.prototypes import ProtoNets
from msr_runtime.normalization import Normalization
from msr_runtime.task import TaskFamily

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of the images of taught classes that are refused."""
_QUERIES = 2
"""Queries of each class of a task, or of a task whose queries are not counted by class, in each query set."""
_IMAGES = 4000
"""About so many images are judged, if there are so many tasks."""
_FEWEST = 20
"""Fewest tasks."""


def measure_rejection(
    learner: Learner,
    normalization: Normalization,
    family: TaskFamily,
    *,
    shots: int,
    augmented: bool,
    seed: int,
    tasks: int,
) -> Rejection | None:
    """Teach validation classes, and return how far images of them and of other classes are.

    A query stands for an image of an unknown class if its own class was not taught. Prototypes do not depend on each
    other. So it is enough to leave out the score of the query's own class, and nothing has to be taught again.

    Args:
        learner: The learner, as in `export_bundle`.
        normalization: The normalization under which it was trained.
        family: The family of the tasks.
        shots: Support samples per task in meta-training, as the family counts them.
        augmented: Whether the queries of meta-training were augmented: then these are too.
        seed: The seed of the draws.
        tasks: How many tasks. Of tasks with many classes, fewer are taken.

    Returns:
        The figures. None if the learner has no prototypes.

    """
    if not isinstance(learner, ProtoNets):
        return None
    rng, near, far = np.random.default_rng(seed), [], []
    while len(near) < tasks and (len(near) < _FEWEST or sum(map(len, far)) < _IMAGES):
        own, other = _distances(learner, normalization, family, rng, shots, augmented)
        near.append(own)
        far.append(other)
    known, unknown = np.concatenate(near), np.concatenate(far)
    distances = np.quantile(known, 1 - np.array(SHARES))
    return Rejection(
        tasks=len(near),
        points=tuple(
            Refused(known=share, unknown=_rounded(float((unknown > distance).mean())), distance=_rounded(distance))
            for share, distance in zip(SHARES, distances.tolist(), strict=True)
        ),
    )


def _distances(
    learner: Learner,
    normalization: Normalization,
    family: TaskFamily,
    rng: np.random.Generator,
    shots: int,
    augmented: bool,
) -> tuple[NDArray, NDArray]:
    """Return how far images of one task are from the nearest class that was taught: queries of these classes, and all
    queries with their own class left out.
    """
    queries = _QUERIES * len(family.query_sets)
    (support_x,), (support_y,), (x,), (y,) = family.sample(rng, 1, shots, queries, "validation")
    if augmented:
        x, y = family.augment(rng, x, y)
    taught_x, labels, images = map(
        torch.from_numpy, (*normalization.normalize(support_x, support_y), normalization.normalize_x(x))
    )
    with torch.no_grad():
        scores = learner(learner.adapt(taught_x, labels), images).numpy()
    classes = np.arange(scores.shape[1])
    scores = np.where(np.isin(classes, support_y), scores, -np.inf)
    others = np.where(y[:, None] == classes, -np.inf, scores).max(1)
    return -scores[np.isin(y, support_y)].max(1), -others[np.isfinite(others)]


def _rounded(value: float) -> float:
    """Four digits: more would differ between machines, and no limit needs them."""
    return float(f"{value:.4g}")
