"""What the exporter does not do with U, measured: a rotation of v to a sparse basis, and Kronecker factors.

Both are taken as far as the error after adapting allows, by the same share in each layer. Both keep the inner loop's
metric: the rotation is orthogonal, and factors only bring U near to what it was.
"""

import copy
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from msr_export.cost import JudgedTasks
from msr_runtime.bundle.structure import MOST_STRUCTURE_COST
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.symmetry.forms import FullSymmetry

_ZEROS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
"""Shares of a layer's U that are made zero."""
_RANKS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Sizes of the factors, as shares of the layer's sides."""
_ROUNDS, _STARTS, _STILL = 100, 2, 1e-6
"""Steps of the search for a rotation, at most; from how many random rotations it begins, beside none; when it ends."""


def zeros(learner: Learner, judged: JudgedTasks) -> float:
    """Return the largest share of U's numbers that may be zero in a sparse basis, within the exporter's tolerance.

    Each layer's v is rotated, then the smallest numbers of its U become zero. The share is 0 if even one hundredth is
    too much.
    """

    def with_zeros(share: float) -> tuple[Learner, float]:
        changed = copy.deepcopy(learner)
        for symmetry, v in _dense(changed):
            turn, U = sparse_basis(symmetry.U.detach().double().numpy(), share)
            with torch.no_grad():
                symmetry.U.copy_(torch.from_numpy(U))
                v.copy_(v.double() @ torch.from_numpy(turn))
        return changed, share

    return max(_within(learner, judged, with_zeros, _ZEROS), default=0.0)


def factors(learner: Learner, judged: JudgedTasks) -> float:
    """Return the smallest share of U's numbers that its Kronecker factors need, within the exporter's tolerance.

    The columns of a layer's U `(m n, k)` are matrices `(m, n)`. `U = (A ⊗ B) G` with A `(m, p)`, B `(n, q)` and G
    `(p q, k)`, by the singular vectors along both sides. So one Kronecker product is `k = p q`, with any G. A layer
    whose factors would need more numbers than its U stays as it is. The share is 1 if no smaller one is allowed.
    """

    def with_factors(share: float) -> tuple[Learner, float]:
        changed, numbers, before = copy.deepcopy(learner), 0, 0
        for symmetry, _ in _dense(changed):
            sides, (_, k) = _sides(symmetry), symmetry.U.shape
            kept = [math.ceil(share * side) for side in sides]
            needed = sum(map(math.prod, zip(sides, kept, strict=True))) + math.prod(kept) * k
            before += symmetry.U.numel()
            numbers += min(needed, symmetry.U.numel())
            if needed < symmetry.U.numel():
                near = near_factors(symmetry.U.detach().double().numpy().reshape(*sides, k), kept)
                with torch.no_grad():
                    symmetry.U.copy_(torch.from_numpy(near.reshape(-1, k)))
        return changed, numbers / before

    return min(_within(learner, judged, with_factors, _RANKS), default=1.0)


def sparse_basis(U: NDArray[np.float64], share: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a rotation `(k, k)`, and the rotated U with its smallest numbers made zero: so many that they are a share.

    The search begins at rotations after which the fourth powers of U's numbers sum to most, so that few large numbers
    are left (the quartimax criterion, Neuhaus and Wrigley 1954). Then, in turns, the smallest numbers become zero, and
    U is rotated to what is left.
    """
    random, k = np.random.default_rng(0), U.shape[1]
    starts = [np.eye(k), *(np.linalg.qr(random.standard_normal((k, k)))[0] for _ in range(_STARTS))]
    found = []
    for turn in starts:
        for begun in (False, True):
            for _ in range(_ROUNDS):
                rotated = U @ turn
                before, turn = turn, _nearest(U.T @ (_largest(rotated, share) if begun else rotated**3))
                if np.abs(turn - before).max() < _STILL:
                    break
        found.append((turn, _largest(U @ turn, share)))
    return max(found, key=lambda pair: float(np.square(pair[1]).sum()))


def _nearest(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation that is nearest to a matrix."""
    left, _, right = np.linalg.svd(matrix)
    return left @ right


def _largest(numbers: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """The numbers, with a share of them made zero: the smallest."""
    sizes = np.abs(numbers)
    return np.where(sizes <= np.quantile(sizes, share), 0, numbers)


def near_factors(U: NDArray[np.float64], kept: list[int]) -> NDArray[np.float64]:
    """Return the columns `(m, n, k)` after a projection of their sides to so many singular vectors."""
    for axis, count in enumerate(kept):
        side = np.moveaxis(U, axis, 0)
        basis = np.linalg.svd(side.reshape(len(side), -1), full_matrices=False)[0][:, :count]
        U = np.moveaxis(np.tensordot(basis @ basis.T, side, 1), 0, axis)
    return U


def _within(
    learner: Learner, judged: JudgedTasks, change: Callable[[float], tuple[Learner, float]], shares: tuple[float, ...]
) -> Iterator[float]:
    """Go on with a change until the error grows too much: yield what each step that is allowed came to."""
    most = (1 + MOST_STRUCTURE_COST) * judged.errors(learner).mean()
    for share in shares:
        changed, reached = change(share)
        if judged.errors(changed).mean() > most:
            return
        yield reached


def _dense(learner: Learner) -> Iterator[tuple[FullSymmetry, torch.Tensor]]:
    """The dense U of a learner's weights and biases, with their v."""
    for name, module in learner.network.named_modules():
        if type(module) is FullSymmetry:
            yield module, learner.network.get_parameter(f"{name.removesuffix('0')}original")


def _sides(symmetry: FullSymmetry) -> tuple[int, int]:
    """The sides of a weight as a matrix: outputs, and everything else. A bias is one row."""
    first, *others = symmetry.shape
    return (first, math.prod(others)) if others else (1, first)
