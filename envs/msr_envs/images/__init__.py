"""Few-shot images: N-way K-shot episodes whose queries are turned, flipped and resized.

* `omniglot`: handwritten characters.
* `images`: photographs by class, from any file of the form that `Images` describes.

The images come from a file that the user names. It is read once and kept in memory.
"""

from msr_envs.images.family import ImageEpisodes
from msr_envs.images.omniglot import Omniglot
from msr_envs.images.photographs import Images
from msr_envs.images.warps import Warps

__all__ = ["ImageEpisodes", "Images", "Omniglot", "Warps"]
