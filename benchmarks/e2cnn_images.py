"""The paper's 2-D problems as its authors make them: filter banks drawn by e2cnn, in the units of their figures.

e2cnn 0.2.3 needs numpy before 2.3, so it is given an environment of its own (see the README beside this file).

Source: Weiler and Cesa, "General E(2)-Equivariant Steerable CNNs", 2019; the public code of Zhou, Knowles, Finn, 2021,
for what is made with it: images of N(0, 1), one trivial field to three regular ones, no padding, no bias, and weights
that its He-like initialiser draws anew for each task.
"""

import numpy as np
import torch
from e2cnn import gspaces, nn  # pyright: ignore[reportMissingImports]  # of an environment of its own
from numpy.typing import NDArray

from msr_envs.synthetic.compressed import Compressed
from msr_envs.synthetic.two_dimensions import CONV_C8, CONV_D8, GroupConvolution


class E2cnnConvolution(GroupConvolution):
    """As `like`, but for the distribution of the filter banks."""

    def __init__(self, like: GroupConvolution, space: gspaces.GSpace) -> None:
        vars(self).update(vars(like), name=f"e2cnn-{like.name}")
        fields = nn.FieldType(space, [space.trivial_repr]), nn.FieldType(space, 3 * [space.regular_repr])
        self._layer = nn.R2Conv(*fields, kernel_size=3, bias=False)

    def weights(self, rng: np.random.Generator, tasks: int) -> NDArray[np.float64]:
        """Draw the filter banks `(tasks, 3 * order, 1, 3, 3)` of `tasks` tasks."""
        banks = []
        with torch.random.fork_rng():
            torch.manual_seed(int(rng.integers(2**62)))
            for _ in range(tasks):
                nn.init.generalized_he_init(self._layer.weights.data, self._layer.basisexpansion)
                banks.append(self._bank())
        return np.stack(banks)

    def filter_space(self) -> NDArray[np.float64]:
        """Orthonormal basis `(3 * order * 9, 18)` of the tasks' flattened filter banks."""
        columns = []
        for row in torch.eye(self._layer.weights.numel()):
            self._layer.weights.data.copy_(row)
            columns.append(self._bank().ravel())
        return np.linalg.qr(np.stack(columns, axis=1))[0]

    def _bank(self) -> NDArray[np.float64]:
        with torch.no_grad():
            return self._layer.expand_parameters()[0].numpy().astype(np.float64)


C8 = Compressed(E2cnnConvolution(CONV_C8, gspaces.Rot2dOnR2(8)), kernel=3)
D8 = Compressed(E2cnnConvolution(CONV_D8, gspaces.FlipRot2dOnR2(8)), kernel=3)
