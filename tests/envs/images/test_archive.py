"""Files of images: what is read, what is refused, and how images are shrunk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_envs.images import Images, Omniglot
from msr_envs.images.archive import read_archive, shrink
from msr_runtime.errors import FamilyError

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8, 3), np.uint8)
SPLIT = np.repeat([0, 1, 2], 3)


def written(folder: Path, **arrays: Any) -> Path:
    """A file with these arrays, and with good ones where none is given. None leaves an array out."""
    path = folder / "file.npz"
    given = {"images": IMAGES, "split": SPLIT} | arrays
    np.savez(path, **{name: array for name, array in given.items() if array is not None})
    return path


def test_colors_come_first_and_black_stays_zero(tmp_path: Path) -> None:
    """X is the image divided by 255, channels first."""
    family = Images(written(tmp_path), ways=2)
    assert family.inputs[0].shape == (3, 8, 8)
    assert np.array_equal(family.images, np.moveaxis(IMAGES, -1, 2).reshape(27, 3, 8, 8))
    x = family.sample(np.random.default_rng(0), 1, 1, 1, "train").support_x
    assert x.dtype == np.float32
    assert any(
        np.array_equal(x[0, 0], np.moveaxis(image, -1, 0) / np.float32(255))
        for image in IMAGES[:3].reshape(-1, 8, 8, 3)
    )


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    """Two families share the images, which none can write to. A file that was written anew is read anew."""
    path = written(tmp_path)
    first, second = Images(path, ways=2), Images(path, ways=3)
    assert np.shares_memory(first.images, second.images)
    with pytest.raises(ValueError, match="read-only"):
        first.images[0] = 0
    written(tmp_path, images=255 - IMAGES[:, :2])
    assert Images(path, ways=2).examples == 2


@pytest.mark.parametrize(("size", "small"), [(28, 25), (12, 8), (24, 12), (10, 7)])
def test_shrinking_is_exact_area_averaging(size: int, small: int) -> None:
    """As repeating every pixel, and averaging whole blocks. The mean of an image stays."""
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 1, size, size), np.uint8)
    fine = images.astype(np.float64).repeat(small, -1).repeat(small, -2)
    exact = fine.reshape(2, 3, 1, small, size, small, size).mean((-1, -3))
    assert np.abs(shrink(images, small) - exact).max() <= 0.501


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": None}, "the array 'images' is missing; there are split"),
        ({"images": IMAGES / 255}, "images has the dtype float64, but uint8 is wanted"),
        ({"images": IMAGES[0, 0]}, r"images has the shape \(8, 8, 3\)"),
        ({"images": IMAGES[..., :2]}, r"images has the shape \(9, 3, 8, 8, 2\)"),
        ({"images": IMAGES[:, :, :6]}, "its images are 6 x 8"),
        ({"images": IMAGES[:, :1]}, "each class has 1 image"),
        ({"split": None}, "lacks the array 'split', one entry per class, 9 in all"),
        ({"split": SPLIT[:5]}, "lacks the array 'split', one entry per class, 9 in all"),
        ({"split": SPLIT + 1}, "split holds '3', but each entry must be one of train, validation, test"),
        ({"split": np.zeros(9, int)}, "the split 'validation' has 0 of the file's 9 classes.*at least 2"),
        ({"images": IMAGES[:, :, :3, :3]}, "its images have 3 x 3 pixels, but at least 4 x 4"),
        ({"images": 7 + 0 * IMAGES}, "every pixel of its images is 7"),
        ({"images": np.array([[None]])}, "cannot be read as a .npz file of plain arrays"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    """The message names the file, what it holds and what is wanted."""
    path = tmp_path / "file.npz"
    with pytest.raises(FamilyError, match=words):
        Images(written(tmp_path, **arrays), ways=2)
    assert path.is_file()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no archive at all"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Whatever is wrong with it."""
    path = tmp_path / "file.npz"
    path.write_bytes(content)
    with pytest.raises(FamilyError, match=r"file.npz': cannot be read as a .npz file"):
        read_archive("images", path, None)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    """At whatever byte a copy was cut short, or one bit of a pixel changed."""
    path = written(tmp_path)
    whole = path.read_bytes()
    for cut in range(100, len(whole), len(whole) // 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(FamilyError, match="cannot be read"):
            read_archive("images", path, None)
    path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    with pytest.raises(FamilyError, match=r"'images.npy' is damaged"):
        read_archive("images", path, None)


def test_each_split_names_the_arrays_it_needs(tmp_path: Path) -> None:
    """The split `vinyals` needs one array, and `background` two."""
    path = written(tmp_path, vinyals_split=None)
    with pytest.raises(FamilyError, match="lacks the array 'vinyals_split'"):
        Omniglot(path, ways=2, size=8)
    with pytest.raises(FamilyError, match=r"needs the array 'evaluation'.*or set split to vinyals"):
        Omniglot(path, ways=2, size=8, split="background")


@pytest.mark.parametrize(("file", "words"), [("", "none is named"), (".", "is no file"), ("no.npz", "does not exist")])
def test_only_what_was_named_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, words: str) -> None:
    """An empty name, as of a shell's variable that is not set, does not stand for the environment's file."""
    monkeypatch.setenv("MSR_IMAGES", str(written(tmp_path)))
    assert Images(ways=2).ways == 2
    with pytest.raises(FamilyError, match=words):
        Images(file, ways=2)
