"""Quarter turns and flips of a square image, as the order of its pixels."""

import numpy as np
from numpy.typing import NDArray


def quarter_turns(size: int) -> NDArray[np.int64]:
    """Return `(4, size * size)`: pixel i of an image turned counter-clockwise k times is pixel `turns[k, i]` of it."""
    pixels = np.arange(size * size).reshape(size, size)
    return np.stack([np.rot90(pixels, turn).ravel() for turn in range(4)])
