"""The one-dimensional problems of the paper: a signal passes filters of width 3 that share weights over positions.

x is a signal `(70,)` and y its filtered signal `(68,)`, both without a unit. A task is k filters of 3 taps. With
rank 1, all positions have the same filter: this is a convolution. With rank k, each position mixes the same k filters,
with its own fixed proportions. This sharing comes from no known group.

Source: Zhou, Knowles, Finn, ICLR 2021, and its public code.
"""

import numpy as np
from numpy.typing import NDArray

from msr_envs.synthetic.linear import LinearTasks
from msr_runtime.task import Field

_INPUTS, _TAPS = 70, 3
_OUTPUTS = _INPUTS - _TAPS + 1
_SEED = 2021
"""Seed of the mixing matrices, together with the rank. They are part of the problem and never change."""

# At most one value in 10^7 lies outside the bounds.
_SIGNAL = Field(name="signal", shape=(_INPUTS,), unit="1", low=-6.0, high=6.0)
_RESPONSE = Field(name="response", shape=(_OUTPUTS,), unit="1", low=-20.0, high=20.0)


class MixedFilters(LinearTasks):
    """The problem `rank<k>`: x `(70,)`, y `(68,)`, dense weight `(68, 70)`.

    A task draws k filters of 3 taps from N(0, 1). The filters at the 68 positions are `mixing` `(68, k)` times these k
    filters. Each row of `mixing` is the softmax of k numbers from N(0, 1). There is no padding.

    Args:
        rank: k, the number of filters.

    """

    def __init__(self, rank: int) -> None:
        super().__init__(f"rank{rank}", _SIGNAL, _RESPONSE)
        logits = np.exp(np.random.default_rng([_SEED, rank]).standard_normal((_OUTPUTS, rank)))
        self.mixing: NDArray[np.float64] = logits / logits.sum(1, keepdims=True)

    def weights(self, rng: np.random.Generator, tasks: int) -> NDArray[np.float64]:
        """Draw the dense weights W `(tasks, 68, 70)` of `tasks` tasks, with y = W x."""
        return _banded(self.mixing @ rng.standard_normal((tasks, self.mixing.shape[1], _TAPS)))

    def respond(self, weight: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Apply `weight` `(68, 70)` to x `(examples, 70)`. Returns y `(examples, 68)`."""
        return x @ weight.T

    def filter_space(self) -> NDArray[np.float64]:
        """Return an orthonormal basis `(68 * 70, 3 k)` of the space of all tasks' dense weights.

        The weights are flattened row by row: output first, then input.
        """
        columns = np.linalg.qr(self.mixing).Q.T  # (k, 68); weights of different taps are orthogonal without this
        filters = np.einsum("ri,st->rtis", columns, np.eye(_TAPS)).reshape(-1, _OUTPUTS, _TAPS)
        return _banded(filters).reshape(len(filters), -1).T


def _banded(filters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn filters per position `(n, 68, 3)` into dense weights `(n, 68, 70)`."""
    weights = np.zeros((len(filters), _OUTPUTS, _INPUTS))
    positions = np.arange(_OUTPUTS)
    for tap in range(_TAPS):
        weights[:, positions, positions + tap] = filters[..., tap]
    return weights


RANK1, RANK2, RANK5 = MixedFilters(1), MixedFilters(2), MixedFilters(5)
