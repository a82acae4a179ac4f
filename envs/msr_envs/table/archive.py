"""Write a file of views of many parts, in the form that the family `images` reads."""

from pathlib import Path

import numpy as np

from msr_envs.images.archive import Pixels
from msr_envs.table.parts import draw_part
from msr_envs.table.scene import PLACES, VIEW, Table
from msr_runtime.task import SPLITS

UPRIGHT = 5.0
"""How far a part is turned at most where it lies as it was put down, degrees."""


def write_parts(path: str | Path, parts: tuple[int, int, int] = (243, 63, 63), views: int = 10, seed: int = 0) -> None:
    """Render parts as they were put down, never turned further than 5 degrees, and write them to a `.npz` file.

    Args:
        path: The file.
        parts: How many parts of training, validation and test. No part is in two of them.
        views: Views of each part, each from another place of the table.
        seed: The seed of all draws.

    """
    rng = np.random.default_rng(seed)
    images = np.concatenate([_views(rng, min(PLACES, sum(parts) - first), views) for first in range(0, sum(parts), 9)])
    np.savez_compressed(path, images=images, split=np.repeat(SPLITS, parts))


def _views(rng: np.random.Generator, parts: int, views: int) -> Pixels:
    """Return views of new parts, `(parts, views, 28, 28, 3)`, all on one table."""
    seen = np.empty((views, parts, VIEW, VIEW, 3), np.uint8)
    with Table([draw_part(rng) for _ in range(parts)]) as table:
        for view in seen:
            view[:] = table.views(rng, table.lay(rng, UPRIGHT))
    return np.moveaxis(seen, 0, 1)
