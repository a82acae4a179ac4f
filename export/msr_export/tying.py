"""A sharing pattern: where rows of U are equal, the weights that they make are one number, whatever v is.

A 1-D convolution of three taps, learned as a dense U, has 4,760 rows but only four different ones: three taps, and
zero. Then W is zero but for copies of the three numbers `R v`, which are put into 204 places. The slope of a number is
the sum over its places: 204 additions, as many as the convolution itself has. v stays as it is, so every rule takes the
same steps.

The copies are written as one scatter from R v, not as one gather into W. So the slopes are a gather and a sum. The
other way round they would be a scatter that adds, which ONNX Runtime does number by number: measured, a third of the
time of an inner step.
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

_LONGEST = 64
"""Different rows after which their number is foreseen."""


class TiedSymmetry(Symmetry):
    """W is zero but for copies of the numbers `R v`, with R `(rows, k)` the different rows of U, and v `(k,)`.

    Args:
        shape: The shape of W.
        rows: R, float32.
        places: Where each number stands in W, in C order: `(rows, longest)`, filled up with `W.numel()`.

    """

    places: Tensor

    def __init__(self, shape: torch.Size, rows: Array, places: NDArray[np.int64]) -> None:
        super().__init__()
        self.shape, self.filter_shape = shape, (rows.shape[1],)
        self.R = nn.Parameter(torch.from_numpy(rows))
        self.register_buffer("places", torch.from_numpy(places))

    def forward(self, v: Tensor) -> Tensor:
        """Map filter parameters v `(k,)` to the layer's weight."""
        numbers = (v.unsqueeze(0) @ self.R.mT)[0]
        copies = numbers.unsqueeze(1).expand(self.places.shape).flatten()
        count = self.shape.numel()
        # The place behind the last takes what is filled up.
        flat = numbers.new_zeros(count + 1).scatter(0, self.places.flatten(), copies)
        return flat.split([count, 1])[0].reshape(self.shape)

    def gain(self) -> float:
        """The mean squared length of U's columns."""
        copies = (self.places < self.shape.numel()).sum(1)
        return float((self.R.detach().square().sum(1) * copies).sum() / self.R.shape[1])


def tie(learner: Learner, name: str, symmetry: TiedSymmetry) -> None:
    """Replace U by its tied rows, in place.

    Args:
        learner: The learner to change.
        name: The name of v among the adapted tensors.
        symmetry: The tied rows.

    """
    parts = learner.network.get_submodule(name.removesuffix(".original"))
    assert isinstance(parts, nn.ModuleList)
    parts[0] = symmetry


def can_tie(learner: Learner) -> bool:
    """Whether the learner's step can be written in ONNX with tied weights.

    torch writes the slopes of copies for one support set, but not for each of any number of samples, as a Jacobian that
    is taken backwards asks for.
    """
    if isinstance(learner.rule, GaussNewton):
        return math.prod(learner.outputs) > learner.adapted_size()  # the Jacobian is taken forwards
    return isinstance(learner.rule, GradientSteps)


def tied(symmetry: FullSymmetry, tolerance: float, most: int | None = None) -> TiedSymmetry | None:
    """Tie the weights whose rows of U are nearly equal.

    The result is None if too many rows are different, or all are zero, or if the numbers of copies differ so much that
    twice as many places as W has would be filled.

    The rows are taken by their length, the longest first. Each takes all rows that are not further from it than the
    tolerance, and their mean stands for them. Rows near zero become zero. The longest rows say early on whether there
    is a pattern at all: without one, each row of a wide layer would be compared with all the others, for hours.

    Args:
        symmetry: A full U.
        tolerance: The distance of two rows that count as equal, as a share of the longest row.
        most: How many rows may be different. None: half of them.

    """
    U = symmetry.U.detach().numpy().astype(np.float64)
    lengths = np.linalg.norm(U, axis=1)
    near = tolerance * lengths.max()
    order = np.argsort(-lengths)
    U, lengths = U[order], lengths[order]
    # Rows whose lengths differ by more than the tolerance are further apart than that: few rows are to be compared.
    ends = np.searchsorted(-lengths, near - lengths, side="right")
    found, rows = np.full(len(U), -1), []
    most, taken, long = len(U) // 2 if most is None else most, 0, int((lengths > near).sum())
    for first, end in enumerate(ends[:long]):
        if found[first] >= 0:
            continue
        # After some rows: as many as there will be, if each of the others takes as many copies as these did.
        expected = long * len(rows) / taken if rows and len(rows) % _LONGEST == 0 else len(rows)
        if max(expected, len(rows)) >= most:
            return None
        others = first + np.flatnonzero(found[first:end] < 0)
        group = others[np.linalg.norm(U[others] - U[first], axis=1) <= near]
        found[group] = len(rows)
        taken += len(group)
        rows.append(U[group].mean(0))
    if not rows:
        return None
    own = [np.sort(order[found == row]) for row in range(len(rows))]
    places = np.full((len(rows), max(map(len, own))), len(U), np.int64)
    if places.size > 2 * len(U):
        return None
    for row, each in zip(places, own, strict=True):
        row[: len(each)] = each
    return TiedSymmetry(symmetry.shape, np.stack(rows).astype(np.float32), places)
