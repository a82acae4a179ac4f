"""Measures of what a network has learned about a group, from its predictions or from its U."""

import numpy as np
from numpy.typing import NDArray

from msr_runtime.task import Group, Predict, acted


def equivariance_error(predict: Predict, group: Group, x: NDArray) -> float:
    """How far `predict` is from commuting with `group`, relative to the size of its output; 0 is exact equivariance.

    For every element g except the identity and every sample x, the error is `|f(g x) - g f(x)|`. The result is the mean
    of these errors divided by the mean of `|f(x)|`. The libraries e3nn and emlp scale their errors in the same way.

    Args:
        predict: The network f, x `(batch, *x)` to y `(batch, *y)`.
        group: The group on the flattened input and output.
        x: Samples `(batch, *x)`.

    Returns:
        The relative error, without unit.

    Example:
        >>> import numpy as np
        >>> from msr_runtime.meta.symmetry import equivariance_error
        >>> from msr_runtime.task import Group
        >>> signs, x = np.array([[[1.0]], [[-1.0]]]), np.array([[1.0], [2.0]])
        >>> mirror = Group("C2", signs, signs)
        >>> [round(equivariance_error(f, mirror, x), 3) for f in (lambda x: x**3, lambda x: x + 0.5)]
        [0.0, 0.5]

    """
    vectors = x.reshape(len(x), -1)

    def answer(vectors: NDArray) -> NDArray:
        return predict(vectors.astype(x.dtype).reshape(x.shape)).reshape(len(x), -1)

    y = answer(vectors)
    errors = [
        np.linalg.norm(answer(acted(on_x, vectors)) - y @ on_y.T, axis=-1).mean()
        for on_x, on_y in zip(group.inputs[1:], group.outputs[1:], strict=True)
    ]
    size = float(np.linalg.norm(y, axis=-1).mean())
    return float(np.mean(errors)) / size if size > 0 else 0.0


def energy(U: NDArray, space: NDArray) -> float:
    """The share of U's squared entries that lies in `space`; 1 if every column lies in it.

    A gradient step on v moves the weight along `U Uᵀ`. So this share of the step stays in the space.

    Args:
        U: `(weights, k)`.
        space: `(weights, dimensions)`, an orthonormal basis.

    """
    return float(np.square(space.T @ U).sum() / np.square(U).sum())


def held(U: NDArray, moves: NDArray[np.int64]) -> float:
    """How much of a group the U of a filter bank holds, for the best action on the output channels.

    If a group moves the image, a layer may answer with its channels turned, by an orthogonal matrix R for each element.
    It does so for every v if the filters in another pose are the filters with their channels turned. Nothing says which
    R a learned U has chosen, so for each element but the identity the best one counts: the largest inner product of
    `R U` with U in that pose, over the squared length of U (orthogonal Procrustes problem).

    Args:
        U: `(out, places, k)`: its rows are the weights of a filter bank `(out, in, *taps)`, and `places = in * taps`.
        moves: How the group permutes the places: `(order, places)`, the identity first.

    Returns:
        The mean over the elements: 1 if U holds the group. If every weight is a filter parameter of its own, so that U
        is the identity, it is the share of the places that an element leaves.

    Example:
        >>> import numpy as np
        >>> from msr_runtime.meta.symmetry import GridGroup, held
        >>> flip = GridGroup.named("D1").on_grid(1, 3)  # of filters with three taps in a row
        >>> free = np.eye(6).reshape(2, 3, 6)  # two output channels
        >>> mirrored = np.zeros((2, 3, 3))  # the second channel has the filter of the first one, flipped
        >>> mirrored[0], mirrored[1] = np.eye(3), np.eye(3)[::-1]
        >>> [round(held(U, flip), 3) for U in (free, mirrored)]
        [0.333, 1.0]

    """
    inner = [np.linalg.svd(np.einsum("opk,qpk->oq", U[:, move], U), compute_uv=False).sum() for move in moves[1:]]
    return float(np.mean(inner) / np.square(U).sum())


def recovery(U: NDArray, space: NDArray) -> float:
    """How much of `space` the columns of U span: the mean squared cosine of the principal angles, 1 for all of it.

    A U with fewer columns than `space` has dimensions cannot reach 1.

    Args:
        U: `(weights, k)`.
        space: `(weights, dimensions)`, an orthonormal basis of the space in which the weights of all tasks lie.

    Returns:
        A number from 0 to 1.

    Example:
        >>> import numpy as np
        >>> from msr_runtime.meta.symmetry import recovery
        >>> space = np.eye(4)[:, :2]  # the weights of all tasks lie in the plane of the first two axes
        >>> [round(recovery(np.eye(4)[:, axes], space), 3) for axes in ([0], [0, 1, 2], [2, 3])]
        [0.5, 1.0, 0.0]

    """
    columns, _ = np.linalg.qr(U.astype(np.float64))
    return float(np.square(np.linalg.svd(space.T @ columns, compute_uv=False)).sum() / space.shape[1])
