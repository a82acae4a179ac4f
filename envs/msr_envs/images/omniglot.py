"""The family `omniglot`: handwritten characters of 50 alphabets, 20 drawings of each.

Sources: Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning through probabilistic program induction", 2015;
Vinyals et al., "Matching networks for one shot learning", 2016.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from msr_envs.images.archive import Archive
from msr_envs.images.family import ImageEpisodes, archive_of
from msr_envs.images.naming import full_name
from msr_envs.images.photographs import coded_split
from msr_envs.images.warps import Angle, Flips, Warps
from msr_runtime.errors import FamilyError
from msr_runtime.task import Split

_HELD_OUT = 6
"""Of the background alphabets, every sixth is held out for validation."""


class Omniglot(ImageEpisodes):
    """Episodes of characters, with classes that no other split has.

    The arrays of the file:

    * `images`: uint8 `(characters, drawings, height, width)`, the share of ink in each pixel from 0 (paper) to 255;
    * `vinyals_split`: `(characters,)`, 0, 1 or 2 for training, validation and test, for the split `vinyals`;
    * `evaluation`: `(characters,)`, 1 for the characters of the evaluation set, for the split `background`;
    * `alphabet`: `(characters,)`, the number of the alphabet, for the split `background`.

    Args:
        file: The file. None: the environment variable `MSR_OMNIGLOT` names it.
        ways: Classes of each task.
        split: `vinyals`, the split of most papers; or `background`: learn on the background set, without every sixth of
            its alphabets, which are for validation, and test on the evaluation set.
        size: Height and width of the images, pixels. The published images of 28 can be shrunk to any size.
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
        split: Literal["vinyals", "background"] = "vinyals",
        size: int = 28,
        turned: bool = False,
        angle: Angle = 30.0,
        flips: Flips = "both",
        crop: float = 0.8,
    ) -> None:
        given = {"ways": ways, "split": split, "size": size, "turned": turned}
        name = full_name(Omniglot, "omniglot", given | {"angle": angle, "flips": flips, "crop": crop})
        if split not in ("vinyals", "background"):
            raise FamilyError(f"family 'omniglot': split is {split!r}, but it must be vinyals or background")
        archive = archive_of("omniglot", file, "MSR_OMNIGLOT", size)
        classes = coded_split(name, archive, "vinyals_split") if split == "vinyals" else _background(name, archive)
        warping = Warps(angle, flips, crop)
        super().__init__(name, archive, classes, ways=ways, turned=turned, warping=warping, padding="zeros")


def _background(name: str, archive: Archive) -> dict[Split, NDArray[np.int64]]:
    for needed in ("evaluation", "alphabet"):
        if needed not in archive.by_class:
            raise FamilyError(
                f"family '{name}': the split background needs the array '{needed}', one number per class, which the "
                "file does not hold; add it, or set split to vinyals"
            )
    evaluation, alphabet = archive.by_class["evaluation"] != 0, archive.by_class["alphabet"]
    held_out = np.isin(alphabet, np.unique(alphabet[~evaluation])[_HELD_OUT - 1 :: _HELD_OUT]) & ~evaluation
    return {
        "train": np.flatnonzero(~evaluation & ~held_out),
        "validation": np.flatnonzero(held_out),
        "test": np.flatnonzero(evaluation),
    }
