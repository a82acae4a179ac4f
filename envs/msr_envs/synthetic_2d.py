"""The paper's 2-D problems: images through a convolution that is also equivariant to turns, or to turns and flips.

Each task is three fields of a group convolution from the trivial to the regular representation: a field is one 3 x 3
filter in all its positions under the group, one output channel a group element. A filter is a centre tap and, on the
ring of the eight taps round it, waves of 0, 1 and 2 periods: six numbers on which a turn by 45 degrees acts exactly
(it moves the ring by one tap, and a wave of m periods by m times 45 degrees).

With 32 x 32 images and no noise, as in the paper's code, this says nothing about what the symmetry is worth: one image
gives 900 equations for the 9 taps of each channel, so that least squares is exact without it. The hard problems are
made for that question: images of 6 x 6, so 16 equations for 9 taps, and noise of standard deviation 0.5 on the
support's targets, whose own is 1.4. Mean squared query errors after one support image (means of 1,000 tasks), of
predicting nothing, of least squares on the bank and on the group's space, and of the best that is possible with a bank
whose numbers are independent (ridge regression that knows the noise and the prior):

| problem | nothing | least squares, bank | ridge, bank | least squares, group |
| --- | --- | --- | --- | --- |
| `conv-c8-hard` | 1.99 | 0.34 | 0.25 | 0.0147 |
| `conv-d8-hard` | 1.99 | 0.34 | 0.25 | 0.0073 |

Smaller images than 6 x 6 leave no margin: at 5 x 5 there are as many equations as taps, and the error of least squares
on the bank has no mean.

Source: Zhou, Knowles, Finn, ICLR 2021, and its public code, which builds the same convolutions with e2cnn.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from msr_envs.groups import Representation, direct_sum, rotation, trivial
from msr_envs.synthetic import LinearTasks
from msr_runtime.task import Field

_FIELDS = 3

_ROW, _COLUMN = (part.ravel() for part in np.mgrid[-1:2, -1:2])
_RING = (_ROW != 0) | (_COLUMN != 0)
_ANGLE = np.arctan2(-_ROW, _COLUMN)  # counter-clockwise: rows run downwards
_BASIS = np.stack(
    [
        ~_RING,
        _RING / np.sqrt(8),
        *(_RING * wave(m * _ANGLE) / 2 for m in (1, 2) for wave in (np.cos, np.sin)),
    ]
)
"""Centre, ring, cosine and sine of 1 and of 2 periods, on the nine taps: `(6, 9)`, orthonormal."""

_C8 = direct_sum(trivial(8, 2), rotation(8), rotation(8)[2 * np.arange(8) % 8])
"""Turns by multiples of 45 degrees on a filter's six numbers."""
_D8 = np.concatenate([_C8, _C8 @ np.diag([1.0, 1.0, 1.0, -1.0, 1.0, -1.0])])
"""The same, and the same after a flip that maps every angle to its negative."""


class GroupConvolution(LinearTasks):
    """x `(1, size, size)`, y `(3 * order, size - 2, size - 2)`, weight `(3 * order, 1, 3, 3)`, no padding.

    Channel `field * order + element` is the field's filter moved by that element. A filter's six numbers are drawn
    with the variance that gives each channel He's `2 / fan-in` a tap (He et al., 2015), so that y has variance 2.
    """

    def __init__(self, name: str, elements: Representation, size: int = 32, noise: float = 0.0) -> None:
        channels, height = _FIELDS * len(elements), size - 2
        # At most one value in 10^7 lies beyond the bounds.
        super().__init__(
            name,
            Field(name="image", shape=(1, size, size), unit="1", low=-6.0, high=6.0),
            Field(name="response", shape=(channels, height, height), unit="1", low=-12.0, high=12.0),
            noise,
        )
        # (6, order * 9): a filter's number to that number's share in all the filter's positions
        self._orbit = np.einsum("gdc,dp->cgp", elements, _BASIS).reshape(len(_BASIS), -1)

    def weights(self, rng: np.random.Generator, tasks: int) -> NDArray[np.float64]:
        """Draw the filter banks `(tasks, 3 * order, 1, 3, 3)` of `tasks` tasks."""
        numbers = rng.standard_normal((tasks, _FIELDS, len(_BASIS))) * np.sqrt(2 / len(_BASIS))
        return (numbers @ self._orbit).reshape(tasks, -1, 1, 3, 3)

    def respond(self, weight: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Correlate x `(examples, 1, size, size)` with the bank, as torch's `conv2d` does: y `(examples, *y)`."""
        patches = sliding_window_view(x[:, 0], (3, 3), (1, 2))
        columns = patches.transpose(0, 3, 4, 1, 2).reshape(len(x), 9, -1)
        return (weight.reshape(-1, 9) @ columns).reshape(len(x), *self.outputs[0].shape)

    def filter_space(self) -> NDArray[np.float64]:
        """Orthonormal basis `(3 * order * 9, 18)` of the tasks' flattened filter banks."""
        one_field = self._orbit / np.linalg.norm(self._orbit, axis=1, keepdims=True)
        return np.kron(np.eye(_FIELDS), one_field).T


CONV_C8, CONV_D8 = GroupConvolution("conv-c8", _C8), GroupConvolution("conv-d8", _D8)
CONV_C8_HARD = GroupConvolution("conv-c8-hard", _C8, size=6, noise=0.5)
CONV_D8_HARD = GroupConvolution("conv-d8-hard", _D8, size=6, noise=0.5)
