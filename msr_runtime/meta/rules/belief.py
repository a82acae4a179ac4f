"""What a recursive rule believes of the numbers that adapt: a mean, and a covariance that only few rows hold.

The numbers are whitened: m of `v = v0 + scale * m` has the prior N(0, I). Each observed number takes one direction out
of the covariance, so after n of them it is

    C = I - Rᵀ diag(d) R        with n rows R and their weights d

No K x K matrix is stored. C stays positive semi-definite if a row is dropped: C then grows, since what the row knew is
forgotten.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Belief(NamedTuple):
    """A normal distribution of the whitened numbers m, whose prior is N(0, I)."""

    mean: Tensor
    """m `(K,)`."""
    rows: Tensor
    """R `(n, K)`: one row per observed number. Rows of zeros hold nothing."""
    decays: Tensor
    """d `(n,)`: how much of each row still counts, 1 when it is new."""

    @classmethod
    def prior(cls, like: Tensor, size: int) -> "Belief":
        """The prior of `size` numbers, with the dtype and on the device of a tensor."""
        return cls(like.new_zeros(size), like.new_zeros(0, size), like.new_zeros(0))

    def relaxed(self, keep: Tensor) -> "Belief":
        """The belief after some time: it returns to the prior by an Ornstein-Uhlenbeck process.

        The mean becomes `keep * m` and the covariance `keep² C + (1 - keep²) I`, which never exceeds the prior's.

        Args:
            keep: `exp(-time / time constant)`, a scalar from 0 (nothing is left) to 1 (nothing is forgotten).

        """
        return Belief(keep * self.mean, self.rows, keep.square() * self.decays)

    def largest(self, samples: int, outputs: int) -> "Belief":
        """The belief with the rows of at most so many samples: those that hold most.

        The first samples take most out of the covariance, and later ones what they left. So the oldest are not those to
        forget: a direction that many samples told about would be as unknown as before them.

        Args:
            samples: How many samples are kept.
            outputs: J, the rows of a sample.

        """
        if len(self.rows) <= samples * outputs:
            return self
        held = (self.decays * self.rows.square().sum(1)).unflatten(0, (-1, outputs)).sum(1)
        kept = held.topk(samples).indices.sort().values
        places = (kept.unsqueeze(1) * outputs + torch.arange(outputs, device=kept.device)).flatten()
        return Belief(self.mean, self.rows[places], self.decays[places])

    def with_rows(self, mean: Tensor, rows: Tensor) -> "Belief":
        """The belief with another mean and with new rows."""
        decays = torch.cat([self.decays, rows.new_ones(len(rows))])
        return Belief(mean, torch.cat([self.rows, rows]), decays)

    def times(self, directions: Tensor) -> Tensor:
        """C h for each row h of `directions` `(n, K)`; `(n, K)`."""
        return directions - ((directions @ self.rows.mT) * self.decays) @ self.rows

    def covariances(self, slopes: Tensor) -> Tensor:
        """The covariances `(samples, J, J)` of J numbers per sample that change by `slopes` `(samples, J, K)`."""
        seen = slopes @ self.rows.mT
        return slopes @ slopes.mT - (seen * self.decays) @ seen.mT


class Elimination(NamedTuple):
    """J normal numbers, taken one after another: each error is what the earlier ones did not explain."""

    errors: Tensor
    """`(J,)`."""
    variances: Tensor
    """`(J,)`, the variance of each error."""
    used: Tensor
    """`(J,)`, the variance that was used for each: larger where the error is an outlier."""
    gains: Tensor
    """`(J, K)`: how K other numbers vary with each error."""


def eliminate(
    covariance: Tensor, errors: Tensor, noise: Tensor, gains: Tensor | None = None, gate: float | None = None
) -> Elimination:
    """Take J numbers with noise one after another. No matrix is inverted, and every operator exists in ONNX.

    Args:
        covariance: `(J, J)`, of the numbers without their noise.
        errors: `(J,)`, the observed numbers minus their means.
        noise: `(J,)`, variances above zero, independent of each other.
        gains: `(J, K)`, the covariances of the numbers with K others. None: there are none.
        gate: Beyond so many standard deviations, an error counts with a variance that grows with it. So it moves as
            much as one at the gate (Huber's weight). None: every error counts alike.

    """
    size = errors.shape[0]
    others = errors.new_zeros(size, 0) if gains is None else gains
    table = torch.cat([covariance, errors.unsqueeze(1), others], dim=1)
    found = []
    for j in range(size):
        # Rounding can leave the variance of a well known number a little below zero.
        variance = table[j, j].clamp(min=0) + noise[j]
        # The error is divided by `used`: beyond the gate, what it moves no longer grows with it.
        used = variance if gate is None else torch.maximum(variance, table[j, size].abs() * variance.sqrt() / gate)
        found.append((table[j], variance, used))
        if j + 1 < size:
            table = table - (table[:, j] / used).unsqueeze(1) * table[j]
    rows, variances, used = (torch.stack(parts) for parts in zip(*found, strict=True))
    return Elimination(rows[:, size], variances, used, rows[:, size + 1 :])


def squared_errors(found: Elimination) -> Tensor:
    """The normalized innovation squared: its mean is the number of outputs if the variances are right; a scalar."""
    return (found.errors.square() / found.variances).sum()
