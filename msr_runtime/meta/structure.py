"""What did a network learn of a group? Measures that need only its predictions."""

import numpy as np
from numpy.typing import NDArray

from msr_runtime.task import Group, Predict


def equivariance_error(predict: Predict, group: Group, x: NDArray) -> float:
    """How far `predict` is from commuting with `group` on the samples x `(batch, *x)`, relative to its output.

    The mean over the elements g (identity left out) and the samples of `|f(g x) - g f(x)|`, divided by the mean of
    `|f(x)|`; 0 is exact equivariance. Relative to the output, as e3nn and emlp scale theirs.
    """
    vectors = x.reshape(len(x), -1)

    def answer(vectors: NDArray) -> NDArray:
        return predict(vectors.astype(x.dtype).reshape(x.shape)).reshape(len(x), -1)

    y = answer(vectors)
    errors = [
        np.linalg.norm(answer(vectors @ on_x.T) - y @ on_y.T, axis=-1).mean()
        for on_x, on_y in zip(group.inputs[1:], group.outputs[1:], strict=True)
    ]
    size = float(np.linalg.norm(y, axis=-1).mean())
    return float(np.mean(errors)) / size if size > 0 else 0.0


def energy(U: NDArray, space: NDArray) -> float:
    """The share of U's squared entries that lies in `space`, arguments as of `recovery`; 1 if no column leaves it.

    A gradient step on v moves the weight along `U Uᵀ`, so that this much of the step keeps to the space.
    """
    return float(np.square(space.T @ U).sum() / np.square(U).sum())


def recovery(U: NDArray, space: NDArray) -> float:
    """How much of `space` the columns of U hold: the mean squared cosine of the principal angles, 1 for all of it.

    U `(weights, k)` and `space` `(weights, dimensions)`, an orthonormal basis of what a task's weights can be; a U of
    fewer columns than dimensions cannot reach 1.
    """
    columns, _ = np.linalg.qr(U.astype(np.float64))
    return float(np.square(np.linalg.svd(space.T @ columns, compute_uv=False)).sum() / space.shape[1])
