"""Episodes over stored images, drawn, moved and normalized on the training device. Nothing is simulated beforehand."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from msr_runtime.families import EpisodicFamily, Padding, queries_beside
from msr_runtime.meta.training.chunks import Batch
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array, Split


class EpisodePool:
    """The stored images of a family, on a device. `draw` makes new tasks of them.

    The images stay there as uint8, once. The draws are those of the family's `sample` and `augment`: a batch equals
    theirs for the same state of `rng`, up to rounding.

    Args:
        family: The family.
        device: Where the images are kept and moved.
        normalization: Center and scale of x. None: raw units, from 0 to 1.
        split: The split from which tasks are drawn.

    Example:
        >>> import numpy as np
        >>> from msr_envs.images import Images
        >>> from msr_runtime.meta.training.episodes import EpisodePool
        >>> images = np.random.default_rng(0).integers(0, 256, (9, 4, 8, 8), np.uint8)  # 9 classes, 4 images of each
        >>> np.savez(folder / "small.npz", images=images, split=np.repeat([0, 1, 2], 3))
        >>> pool = EpisodePool(Images(folder / "small.npz", ways=3))
        >>> support_x, support_y, query_x, query_y = pool.draw(np.random.default_rng(0), tasks=5, shots=1, queries=2)
        >>> support_x.shape, query_y[0].tolist()
        (torch.Size([5, 3, 1, 8, 8]), [0, 1, 2, 0, 1, 2])

    """

    def __init__(
        self,
        family: EpisodicFamily,
        device: str | torch.device = "cpu",
        normalization: Normalization | None = None,
        split: Split = "train",
    ) -> None:
        self.family, self.device = family, torch.device(device)
        self.split: Split = split
        # a copy: torch takes no array that cannot be written to
        self._images = torch.from_numpy(family.images.copy()).flatten(2).to(device)
        self._turns = torch.from_numpy(family.turns).to(device)
        center, scale = (0.0, 1.0) if normalization is None else _figures(normalization)
        self._center, self._scale = (torch.tensor(each, dtype=torch.float32, device=device) for each in (center, scale))

    def draw(
        self,
        rng: np.random.Generator,
        tasks: int,
        shots: int,
        queries: int,
        *,
        augment: bool = True,
        share: slice = slice(None),
    ) -> Batch:
        """Draw new tasks.

        Args:
            rng: The source of all randomness. It does not depend on the device or on `share`.
            tasks: The number of tasks.
            shots: Support images of each class.
            queries: Query images of each class. If the classes have too few for so many, there are fewer.
            augment: Move each query by a map of its own. The support set is never moved.
            share: Which of the tasks to return.

        Returns:
            x `(tasks, shots or queries * ways, channels, size, size)` float32 and labels int64, of support set and
            queries, on the device.

        """
        queries = queries_beside(self.family, shots, queries)
        drawn = self.family.episodes(rng, tasks, shots, queries, self.split)
        maps = None
        if augment:
            maps = self.family.warps(rng, drawn.query.size).reshape(*drawn.query.shape, 2, 3)[share]
        support_x, query_x = self._pictures(drawn.support[share]), self._pictures(drawn.query[share])
        if maps is not None:
            query_x = move_images(query_x, maps, self.family.padding)
        labels = (torch.from_numpy(y[share]).to(self.device) for y in (drawn.support_y, drawn.query_y))
        support_y, query_y = labels
        return [self._normalized(support_x), support_y, self._normalized(query_x), query_y]

    def _pictures(self, numbers: NDArray[np.int64]) -> Tensor:
        """Return the images with these numbers, `(*numbers, channels, size, size)`, from 0 to 1."""
        turns, size = len(self._turns), self.family.images.shape[-1]
        number = torch.from_numpy(numbers).to(self.device)
        flat = self._images[number // turns]
        if turns > 1:
            order = self._turns[number % turns][..., None, :].expand(flat.shape)
            flat = flat.gather(-1, order)
        return flat.unflatten(-1, (size, size)).float() / 255

    def _normalized(self, x: Tensor) -> Tensor:
        return (x - self._center) / self._scale


def move_images(x: Tensor, maps: Array, padding: Padding) -> Tensor:
    """Move images on their device by one grid sample, see `EpisodicFamily.warps`.

    Args:
        x: `(..., channels, size, size)`.
        maps: One map per image, `(..., 2, 3)`.
        padding: What lies outside an image.

    Returns:
        The moved images, in the same shape.

    """
    images = x.flatten(0, -4)
    grid = affine_grid(torch.from_numpy(maps).to(x.device).flatten(0, -3), list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False).reshape(x.shape)


def _figures(normalization: Normalization) -> tuple[object, object]:
    return normalization.input_center, normalization.input_scale
