"""The family `images`: photographs by class, from any file of the right form."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msr_envs.images.archive import Archive
from msr_envs.images.family import ImageEpisodes, archive_of
from msr_envs.images.naming import full_name
from msr_envs.images.warps import Angle, Flips, Warps
from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, Split


class Images(ImageEpisodes):
    """Episodes of photographs, with classes that no other split has.

    The arrays of the file:

    * `images`: uint8 `(classes, images per class, height, width, channels)`, 1 or 3 channels, height and width equal;
      with one channel the last axis may be missing;
    * `split`: `(classes,)`, 0, 1 or 2 for training, validation and test, or the words `train`, `validation`, `test`.

    Args:
        file: The file. None: the environment variable `MSR_IMAGES` names it.
        ways: Classes of each task.
        size: Height and width to which the images are shrunk, pixels. None: as they are in the file.
        turned: Let each class, turned by 90, 180 and 270 degrees, be three more classes of the same split.
        angle: Turns of the queries, see `Warps`.
        flips: Flips of the queries, see `Warps`.
        crop: Crops of the queries, see `Warps`.

    Raises:
        FamilyError: An option is not allowed, or does not fit the file.

    """

    def __init__(
        self,
        file: str | Path | None = None,
        ways: int = 5,
        size: int | None = None,
        turned: bool = False,
        angle: Angle = 30.0,
        flips: Flips = "both",
        crop: float = 0.8,
    ) -> None:
        given = {"ways": ways, "size": size, "turned": turned, "angle": angle, "flips": flips, "crop": crop}
        name = full_name(Images, "images", given)
        archive = archive_of("images", file, "MSR_IMAGES", size)
        classes, warping = coded_split(name, archive, "split"), Warps(angle, flips, crop)
        super().__init__(name, archive, classes, ways=ways, turned=turned, warping=warping, padding="border")


def coded_split(name: str, archive: Archive, array: str) -> dict[Split, NDArray[np.int64]]:
    """Return the classes of each split, from an array that holds 0, 1 or 2, or the names of the splits."""
    if array not in archive.by_class:
        raise FamilyError(
            f"family '{name}': its file lacks the array '{array}', one entry per class, {len(archive.images)} in all; "
            f"add it, with {', '.join(SPLITS)} or 0, 1 and 2, or name another file"
        )
    codes = {text: split for i, split in enumerate(SPLITS) for text in (split, str(i))}
    given = [str(value) for value in archive.by_class[array].tolist()]
    unknown = [text for text in given if text not in codes]
    if unknown:
        raise FamilyError(
            f"family '{name}': in its file, {array} holds '{unknown[0]}', but each entry must be one of "
            f"{', '.join(SPLITS)}, or 0, 1 or 2"
        )
    return {split: np.flatnonzero([codes[text] == split for text in given]) for split in SPLITS}
