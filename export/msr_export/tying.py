"""A sharing pattern: where rows of U are equal, the weights that they make are one number, whatever v is.

A 1-D convolution of three taps, learned as a dense U, has 4,760 rows but only four different ones: three taps, and
zero. Then `W = (R v)[entries]`: one small product, and a gather. Its gradient is a sum over each group of equal
entries. v stays as it is, so every rule takes the same steps.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.gauss_newton import GaussNewton
from msr_runtime.meta.rules.gradient import GradientSteps
from msr_runtime.meta.symmetry.forms import FullSymmetry, Symmetry
from msr_runtime.task import Array


class TiedSymmetry(Symmetry):
    """`W = (R v)[entries]`, with R `(rows, k)` the different rows of U, and v `(k,)`.

    Args:
        shape: The shape of W.
        rows: R, float32. Its first row is zero.
        entries: The row of R of each number of W, in C order: `(W.numel(),)`.

    """

    entries: Tensor

    def __init__(self, shape: torch.Size, rows: Array, entries: NDArray[np.int64]) -> None:
        super().__init__()
        self.shape, self.filter_shape = shape, (rows.shape[1],)
        self.R = nn.Parameter(torch.from_numpy(rows))
        self.register_buffer("entries", torch.from_numpy(entries))

    def forward(self, v: Tensor) -> Tensor:
        """Map filter parameters v `(k,)` to the layer's weight."""
        return (v.unsqueeze(0) @ self.R.mT)[0].index_select(0, self.entries).reshape(self.shape)

    def gain(self) -> float:
        """The mean squared length of U's columns."""
        return float(self.R.detach()[self.entries].square().sum() / self.R.shape[1])


def can_tie(learner: Learner) -> bool:
    """Whether the learner's step can be written in ONNX with tied weights.

    Their gradient adds up equal entries. torch writes this sum for one support set, but not for each of any number of
    samples, as a Jacobian that is taken backwards asks for.
    """
    if isinstance(learner.rule, GaussNewton):
        return math.prod(learner.outputs) > learner.adapted_size()  # the Jacobian is taken forwards
    return isinstance(learner.rule, GradientSteps)


def tied(symmetry: FullSymmetry, tolerance: float) -> TiedSymmetry | None:
    """Tie the weights whose rows of U are nearly equal. None if more than half of the rows are different.

    The rows are taken by their length, the longest first. Each takes all rows that are not further from it than the
    tolerance, and their mean stands for them. Rows near zero become zero.

    Args:
        symmetry: A full U.
        tolerance: The distance of two rows that count as equal, as a share of the longest row.

    """
    U = symmetry.U.detach().numpy().astype(np.float64)
    lengths = np.linalg.norm(U, axis=1)
    near = tolerance * lengths.max()
    order = np.argsort(-lengths)
    U, lengths = U[order], lengths[order]
    # Rows whose lengths differ by more than the tolerance are further apart than that: few rows are to be compared.
    ends = np.searchsorted(-lengths, near - lengths, side="right")
    found, rows = np.where(lengths <= near, 0, -1), [np.zeros(U.shape[1])]
    for first, end in enumerate(ends):
        if found[first] >= 0:
            continue
        if 2 * len(rows) >= len(U):
            return None
        others = first + np.flatnonzero(found[first:end] < 0)
        group = others[np.linalg.norm(U[others] - U[first], axis=1) <= near]
        found[group] = len(rows)
        rows.append(U[group].mean(0))
    entries = np.empty(len(U), np.int64)
    entries[order] = found
    return TiedSymmetry(symmetry.shape, np.stack(rows).astype(np.float32), entries)
