"""Groups found in augmentations: which searches are made, and turns by any angle as eight maps."""

from pathlib import Path

import discovery
import numpy as np
import pytest
from discovery import Augmentation, search_images, search_robot
from tables.images import discovery as lines
from turns import find_turns

from msr_envs.images import Images


def test_a_line_says_how_often_a_group_was_found(image_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From every seed, with the cost of each number of maps; nothing where nothing was."""
    monkeypatch.setenv("MSR_OMNIGLOT", str(image_file))
    monkeypatch.setattr(discovery, "IMAGES", {"characters": "omniglot:size=8"})
    drawn = {
        "turns": Augmentation("angle=quarter,flips=none,crop=1", "C4"),
        "crops": Augmentation("angle=0,flips=none,crop=0.7", "none"),
    }
    monkeypatch.setattr(discovery, "AUGMENTATIONS", drawn)
    turns, crops = lines(list(search_images(2)))
    assert (turns["augmentation"], turns["found"], turns["cost of 4"]) == ("turns", "C4, 2 of 2", "0.000")
    assert (crops["found"], crops["distance"]) == ("none, 2 of 2", "–")


def test_a_robots_group_is_compared_with_the_declared_one() -> None:
    """Element by element, whatever their order."""
    row = search_robot("hex-drive")
    assert row["found"] == row["drawn"] == "C6"
    assert row["distance"] is not None
    assert row["distance"] < 1e-7


def test_eight_maps_stand_for_turns_by_any_angle(tmp_path: Path) -> None:
    """They close as C8 does, and each is near the turn by its angle. Where nothing turns, nothing closes."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:20, :20] - 9.5
    images = np.zeros((24, 20, 20, 20, 1))
    for _ in range(4):  # each image is four spots
        at, width = rng.uniform(-6, 6, (2, 24, 20, 1, 1)), rng.uniform(1, 3, (24, 20, 1, 1))
        images[..., 0] += np.exp(-((row - at[0]) ** 2 + (column - at[1]) ** 2) / width**2)
    file = tmp_path / "spots.npz"
    split = np.repeat(["train", "validation", "test"], 8)
    np.savez(file, images=(255 * images / images.max()).astype(np.uint8), split=split)
    found = find_turns(Images(file, ways=4, angle="any", flips="none", crop=1), 8, np.random.default_rng(0))
    assert found.closes
    assert found.closure < 0.2
    assert found.distance < 0.2
    assert not find_turns(Images(file, ways=4, angle=20, flips="none", crop=1), 8, np.random.default_rng(0)).closes
