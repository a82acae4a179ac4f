"""The two-dimensional problems of the paper: images pass a convolution that is equivariant to turns and flips.

x is an image `(1, size, size)` and y its responses `(3 * order, size - 2, size - 2)`, both without a unit. A task is
three filters of 3 x 3 taps. The group makes a filter bank from them: each filter appears once per group element, moved
by that element, and each copy gives one output channel. The group is C8, the turns by 45 degrees (order 8), or D8,
which also has flips (order 16).

A turn by 45 degrees must act exactly on a filter of 3 x 3 taps. Therefore a filter is built from six numbers: the
center tap, and waves of 0, 1 and 2 periods on the ring of the eight other taps (a constant, and a cosine and a sine of
each wave). The turn moves the ring by one tap, and a wave of m periods by m times 45 degrees.

The paper uses images of 32 x 32 pixels without noise. They cannot show what knowing the symmetry is worth: one image
gives 900 equations for the 9 taps of each channel, so least squares is exact without it. The hard problems can show it.
Their images have 6 x 6 pixels, which gives 16 equations for 9 taps. The y of the support set has noise with a standard
deviation of 0.5, while y itself has 1.4.

The table shows mean squared query errors after one support image (means of 1,000 tasks). "Bank" fits every tap by
itself; "group" fits only filter banks that the group allows. The ridge regression knows the noise and the prior: it is
the best that is possible if all taps are independent.

================  =======  ===================  ===========  ====================
problem           nothing  least squares, bank  ridge, bank  least squares, group
================  =======  ===================  ===========  ====================
`conv-c8-hard`    1.99     0.34                 0.25         0.0147
`conv-d8-hard`    1.99     0.34                 0.25         0.0073
================  =======  ===================  ===========  ====================

Images smaller than 6 x 6 leave no margin: with 5 x 5, there are as many equations as taps, and the error of least
squares on the bank has no mean.

Source: Zhou, Knowles, Finn, ICLR 2021, and its public code, which builds the same convolutions with e2cnn.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from msr_envs.groups import Representation, direct_sum, rotation, trivial
from msr_envs.synthetic.linear import LinearTasks
from msr_runtime.task import Field

_FIELDS = 3  # filters per task

_ROW, _COLUMN = (part.ravel() for part in np.mgrid[-1:2, -1:2])
_RING = (_ROW != 0) | (_COLUMN != 0)
_ANGLE = np.arctan2(-_ROW, _COLUMN)  # counter-clockwise; minus, because rows are counted downward
_BASIS = np.stack(
    [
        ~_RING,
        _RING / np.sqrt(8),
        *(_RING * wave(m * _ANGLE) / 2 for m in (1, 2) for wave in (np.cos, np.sin)),
    ]
)
"""`(6, 9)`: center, constant ring, cosine and sine of 1 and of 2 periods, on the nine taps. Orthonormal rows."""

_C8 = direct_sum(trivial(8, 2), rotation(8), rotation(8)[2 * np.arange(8) % 8])
"""`(8, 6, 6)`: turns by multiples of 45 degrees, as matrices on a filter's six numbers."""
_D8 = np.concatenate([_C8, _C8 @ np.diag([1.0, 1.0, 1.0, -1.0, 1.0, -1.0])])
"""`(16, 6, 6)`: the same turns, and the same turns after a flip that changes the sign of every angle."""


class GroupConvolution(LinearTasks):
    """A problem with x `(1, size, size)`, y `(3 * order, size - 2, size - 2)` and weight `(3 * order, 1, 3, 3)`.

    There is no padding. Output channel `filter * order + element` has that filter, moved by that group element. The six
    numbers of a filter have a variance that gives every tap the variance `2 / fan-in` (He et al., 2015), so that y has
    variance 2.

    Args:
        name: The family's name.
        elements: The group on a filter's six numbers, `(order, 6, 6)`.
        size: Width and height of the image, pixels.
        noise: Standard deviation of the noise on the y of the support set.

    """

    def __init__(self, name: str, elements: Representation, size: int = 32, noise: float = 0.0) -> None:
        channels, height = _FIELDS * len(elements), size - 2
        # At most one value in 10^7 lies outside the bounds.
        super().__init__(
            name,
            Field(name="image", shape=(1, size, size), unit="1", low=-6.0, high=6.0),
            Field(name="response", shape=(channels, height, height), unit="1", low=-12.0, high=12.0),
            noise,
        )
        # (6, order * 9): what one number of a filter adds to the nine taps of each of its `order` copies
        self._orbit = np.einsum("gdc,dp->cgp", elements, _BASIS).reshape(len(_BASIS), -1)

    def weights(self, rng: np.random.Generator, tasks: int) -> NDArray[np.float64]:
        """Draw the filter banks `(tasks, 3 * order, 1, 3, 3)` of `tasks` tasks."""
        numbers = rng.standard_normal((tasks, _FIELDS, len(_BASIS))) * np.sqrt(2 / len(_BASIS))
        return (numbers @ self._orbit).reshape(tasks, -1, 1, 3, 3)

    def respond(self, weight: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Correlate x `(examples, 1, size, size)` with the bank, as torch's `conv2d` does, to y `(examples, *y)`."""
        patches = sliding_window_view(x[:, 0], (3, 3), (1, 2))
        columns = patches.transpose(0, 3, 4, 1, 2).reshape(len(x), 9, -1)
        return (weight.reshape(-1, 9) @ columns).reshape(len(x), *self.outputs[0].shape)

    def filter_space(self) -> NDArray[np.float64]:
        """Return an orthonormal basis `(3 * order * 9, 18)` of the space of all tasks' flattened filter banks."""
        one_field = self._orbit / np.linalg.norm(self._orbit, axis=1, keepdims=True)
        return np.kron(np.eye(_FIELDS), one_field).T


CONV_C8, CONV_D8 = GroupConvolution("conv-c8", _C8), GroupConvolution("conv-d8", _D8)
CONV_C8_HARD = GroupConvolution("conv-c8-hard", _C8, size=6, noise=0.5)
CONV_D8_HARD = GroupConvolution("conv-d8-hard", _D8, size=6, noise=0.5)
