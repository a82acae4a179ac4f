"""How surprising samples are, measured alike by the exporter and by the robot."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

SURPRISE = 25.0
"""The largest innovation that counts, as a multiple of a usual one: one outlier must not look like another task."""


def surprise_parts(nis: NDArray, y: NDArray, usual: ArrayLike) -> tuple[NDArray, NDArray]:
    """Return the error and the size of each sample. Surprise is the sum of the errors over the sum of the sizes.

    The errors of a network grow with y: a strong robot would look strange beside a weak one. Divided by the size of y,
    tasks of one family resemble each other much more, and a strange one stands out. After some numbers of samples a
    filter is too sure of itself, or not sure enough, on every task. So the errors are divided by what is usual then.

    Args:
        nis: The normalized innovation squared of each sample, over all numbers of y, `(...)`.
        y: Each y, normalized, `(..., out)`.
        usual: What is usual of such samples, per number of y, `(...)`. See `usual_nis`.

    Returns:
        The innovation squared as a multiple of a usual one, at most `SURPRISE`, and 1 plus the mean square of y,
        `(...)` each.
    """
    return np.minimum(nis / y.shape[-1] / usual, SURPRISE), 1 + np.square(y).mean(-1)
