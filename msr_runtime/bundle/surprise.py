"""How surprising samples are, measured alike by the exporter and by the robot."""

import numpy as np
from numpy.typing import NDArray

SURPRISE = 25.0
"""The largest normalized innovation squared per number of y that counts. One outlier is no other task."""


def surprise_parts(nis: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Return the two sums' terms of which the surprise of some samples is the ratio.

    The errors of a network grow with y: a strong robot would look strange beside a weak one. Divided by the size of y,
    tasks of one family resemble each other much more, and a strange one stands out.

    Args:
        nis: The normalized innovation squared of each sample, over all numbers of y, `(...)`.
        y: Each y, normalized, `(..., out)`.

    Returns:
        The innovation squared per number of y, at most `SURPRISE`, and 1 plus the mean square of y, `(...)` each.
    """
    return np.minimum(nis / y.shape[-1], SURPRISE), 1 + np.square(y).mean(-1)
