"""Floors: what a few lines without meta-learning reach on the same tasks.

A network that is no better than a floor has learned nothing which the floor does not know.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from msr_runtime.families import StreamFamily
from msr_runtime.meta.symmetry.finding import known_group
from msr_runtime.normalization import Normalization
from msr_runtime.task import Adapt, Array, Group, Predict, TaskFamily, output_shape, width

RIDGES = (1e-6, 1e-4, 1e-2, 0.1, 1.0)
"""Ridges that the regression chooses from, per sample and in normalized units."""

Floats = NDArray[np.float64]


def floors(family: TaskFamily, normalization: Normalization) -> dict[str, Adapt]:
    """Return simple ways to adapt, by name.

    * `mean of the support`: the mean of y; for labels, how often each class occurs.
    * `ridge on x`: ridge regression with a constant, on normalized x and y; for labels, on vectors with a one at the
      class. The ridge is the one of `RIDGES` with the lowest error on samples that are left out.
    * `ridge on x, mirrored`: the same on the support set and its images under the family's group, if that is known.
    * `last value`, of a `StreamFamily`: y if nothing changed any more.

    Args:
        family: The family.
        normalization: Center and scale of x and y.

    Example:
        >>> import numpy as np
        >>> from msr_envs import load_family
        >>> from msr_runtime.meta import floors, score
        >>> from msr_runtime.normalization import Normalization
        >>> units = {"input_center": [0.0] * 18, "input_scale": [1.0] * 18}
        >>> units |= {"output_center": [0.0] * 2, "output_scale": [1.0] * 2}
        >>> family = load_family("ring-nav")
        >>> ridge = floors(family, Normalization.model_validate(units))["ridge on x"]
        >>> scores = score(family, ridge, np.random.default_rng(0), tasks=20)
        >>> print(f"{scores.sets['sector'].mean():.2f}")  # from the support set's own direction
        0...

    """
    found: dict[str, Adapt] = {
        "mean of the support": _mean(family),
        "ridge on x": _ridge(family, normalization, None),
    }
    if (group := known_group(family)) is not None:
        found["ridge on x, mirrored"] = _ridge(family, normalization, group)
    if isinstance(family, StreamFamily):
        stream = family
        found["last value"] = lambda _, support_y: lambda x: stream.last_value(support_y, x)
    return found


def _mean(family: TaskFamily) -> Adapt:
    targets = _targets(family)

    def adapt(support_x: Array, support_y: Array) -> Predict:  # noqa: ARG001 - the signature of every adaptation
        mean = targets(support_y).mean(0).astype(np.float32).reshape(output_shape(family.outputs, family.loss))
        return lambda x: np.broadcast_to(mean, (len(x), *mean.shape))

    return adapt


def _ridge(family: TaskFamily, normalization: Normalization, group: Group | None) -> Adapt:
    targets, labels = _targets(family), family.loss == "cross_entropy"

    def features(x: NDArray) -> Floats:
        normal = normalization.normalize_x(x).reshape(len(x), -1).astype(np.float64)
        return np.pad(normal, ((0, 0), (0, 1)), constant_values=1.0)

    def images(x: NDArray, y: NDArray) -> tuple[NDArray, Floats]:
        # x as it is shaped and y as vectors, `(samples * order, ...)`: all images of a sample are neighbors
        vectors = targets(y)
        if group is None:
            return x, vectors
        flat = x.reshape(len(x), -1)
        turned = flat[:, group.inputs] if group.inputs.ndim == 2 else np.einsum("gij,sj->sgi", group.inputs, flat)
        turned_x = turned.reshape(-1, *x.shape[1:])
        return turned_x, np.einsum("gij,sj->sgi", group.outputs, vectors).reshape(-1, vectors.shape[1])

    def adapt(support_x: Array, support_y: Array) -> Predict:
        x, y = images(support_x, support_y)
        shape = (len(x), *output_shape(family.outputs, family.loss))
        wanted = y if labels else normalization.normalize_y(y.reshape(shape)).reshape(y.shape)
        onto, weights = fit_ridge(features(x), wanted.astype(np.float64), 1 if group is None else group.order)

        def predict(x: Array) -> Array:
            normal = (features(x) @ onto @ weights).reshape(len(x), *shape[1:])
            return normal.astype(np.float32) if labels else normalization.raw_y(normal)

        return predict

    return adapt


def _targets(family: TaskFamily) -> Callable[[NDArray], Floats]:
    """The function that makes vectors `(samples, y)` of y. A label becomes a vector with a one at its class."""
    classes = width(family.outputs)
    if family.loss == "cross_entropy":
        return lambda y: np.eye(classes)[y]
    return lambda y: y.reshape(len(y), classes).astype(np.float64)


def fit_ridge(x: Floats, y: Floats, together: int) -> tuple[Floats, Floats]:
    """Return the weights of a ridge regression, with the best ridge of `RIDGES` on what is left out.

    Args:
        x: Features, `(samples, x)`.
        y: Targets, `(samples, y)`.
        together: So many consecutive samples are images of one and are left out together.

    Returns:
        Two matrices, `(x, rank)` and `(rank, y)`, whose product is the weights. For images it would be far larger.

    """
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    known, blocks = left.T @ y, left.reshape(-1, together, left.shape[1])

    def left_out(ridge: float) -> float:
        # Without fitting again: the residual of a block is its residual in the whole fit, over 1 - its own influence.
        kept = sizes**2 / (sizes**2 + ridge)
        residual = (y - left @ (kept[:, None] * known)).reshape(-1, together, y.shape[1])
        influence = np.einsum("bir,r,bjr->bij", blocks, kept, blocks)
        return float(np.mean(np.linalg.solve(np.eye(together) - influence, residual) ** 2))

    ridge = min((each * len(x) for each in RIDGES), key=left_out)
    return right.T * (sizes / (sizes**2 + ridge)), known
