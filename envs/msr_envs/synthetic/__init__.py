"""The synthetic problems of the paper: linear maps whose weights are shared between positions.

Robot: none. They test whether meta-learning finds a known weight sharing.

* `rank1`, `rank2`, `rank5`: x is a signal of 70 numbers, y its filtered signal of 68 numbers. A task is the filters.
* `conv-c8`, `conv-d8`: x is an image `(1, 32, 32)`, y the responses of a filter bank. A task is the filter bank. The
  group C8 (turns by 45 degrees) or D8 (turns and flips) shares weights between its filters.
* `conv-c8-hard`, `conv-d8-hard`: the same with images of 6 x 6 pixels and noise.

All numbers are without a unit. `Compressed` turns image problems into a few rows per image, which train faster.
"""

from msr_envs.synthetic.compressed import Compressed
from msr_envs.synthetic.linear import LinearTasks

__all__ = [
    "Compressed",
    "LinearTasks",
]
