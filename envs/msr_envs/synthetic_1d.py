"""The paper's 1-D problems: signals through filters of width 3 that are shared by all positions, or by rank k.

Rank 1 is a convolution. At rank k each position mixes the same k filters in its own fixed proportions, so that the
sharing is none that a known group has.

Source: Zhou, Knowles, Finn, ICLR 2021, and its public code.
"""

import numpy as np
from numpy.typing import NDArray

from msr_envs.synthetic import LinearTasks
from msr_runtime.task import Field

_INPUTS, _TAPS = 70, 3
_OUTPUTS = _INPUTS - _TAPS + 1
_SEED = 2021
"""Of the mixing matrices, with the rank: they are part of the problem and never change."""

# At most one value in 10^7 lies beyond the bounds.
_SIGNAL = Field(name="signal", shape=(_INPUTS,), unit="1", low=-6.0, high=6.0)
_RESPONSE = Field(name="response", shape=(_OUTPUTS,), unit="1", low=-20.0, high=20.0)


class MixedFilters(LinearTasks):
    """`rank<k>`: x `(70,)`, y `(68,)`, dense weight `(68, 70)`.

    The filters at the 68 positions are `mixing` `(68, k)`, the softmax over k of N(0, 1), times k filters of 3 taps
    that are drawn from N(0, 1) for each task. No padding.
    """

    def __init__(self, rank: int) -> None:
        super().__init__(f"rank{rank}", _SIGNAL, _RESPONSE)
        logits = np.exp(np.random.default_rng([_SEED, rank]).standard_normal((_OUTPUTS, rank)))
        self.mixing: NDArray[np.float64] = logits / logits.sum(1, keepdims=True)

    def weights(self, rng: np.random.Generator, tasks: int) -> NDArray[np.float64]:
        """Draw the dense weights W `(tasks, 68, 70)` of `tasks` tasks: y = W x."""
        return _banded(self.mixing @ rng.standard_normal((tasks, self.mixing.shape[1], _TAPS)))

    def respond(self, weight: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The map `weight` `(68, 70)` applied to x `(examples, 70)`: y `(examples, 68)`."""
        return x @ weight.T

    def filter_space(self) -> NDArray[np.float64]:
        """Orthonormal basis `(68 * 70, 3 k)` of the tasks' dense weights, row by row (output, then input)."""
        columns = np.linalg.qr(self.mixing).Q.T  # (k, 68); weights of different taps are orthogonal as they are
        filters = np.einsum("ri,st->rtis", columns, np.eye(_TAPS)).reshape(-1, _OUTPUTS, _TAPS)
        return _banded(filters).reshape(len(filters), -1).T


def _banded(filters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filters at the positions `(n, 68, 3)` to dense weights `(n, 68, 70)`."""
    weights = np.zeros((len(filters), _OUTPUTS, _INPUTS))
    positions = np.arange(_OUTPUTS)
    for tap in range(_TAPS):
        weights[:, positions, positions + tap] = filters[..., tap]
    return weights


RANK1, RANK2, RANK5 = MixedFilters(1), MixedFilters(2), MixedFilters(5)
