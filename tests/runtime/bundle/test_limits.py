"""What is too large is refused by its size: before it is read, unpacked or run."""

import io
import math
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from msr_runtime import AdaptiveModel, Bundle, BundleError
from msr_runtime.bundle import decode_adaptation
from msr_runtime.bundle.limits import MAX_BYTES, largest_graph, largest_tensors
from msr_runtime.bundle.manifest import MANIFEST, Manifest
from msr_runtime.bundle.store import ADAPT, GOLDEN, PREDICT, START

Write = Callable[..., Path]


def archive(members: dict[str, Any], method: int = zipfile.ZIP_STORED) -> bytes:
    """The bytes of an .npz file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members.items():
            if isinstance(data, np.ndarray):
                array = io.BytesIO()
                np.save(array, data)
                data = array.getvalue()
            file.writestr(f"{name}.npy", data)
    return buffer.getvalue()


@pytest.fixture
def example(bundle_path: Path) -> dict[str, Any]:
    """The arrays of the reference's golden example."""
    return {name: np.asarray(part) for name, part in Bundle.open(bundle_path).golden()._asdict().items()}


def test_a_huge_manifest_is_refused_unread(bundle_path: Path) -> None:
    """A sparse file of 300 MB in place of the manifest."""
    with (bundle_path / MANIFEST).open("r+b") as file:
        file.truncate(300_000_000)
    with pytest.raises(BundleError, match=r"manifest\.json has 300000000 bytes, more than the \d+ allowed"):
        Bundle.open(bundle_path)


@pytest.mark.parametrize("name", [PREDICT, ADAPT, START, GOLDEN])
def test_a_file_larger_than_its_manifest_explains_is_refused_unread(bundle_path: Path, name: str) -> None:
    """A file of 2 GB belongs to no bundle with four filter parameters."""
    with (bundle_path / name).open("r+b") as file:
        file.truncate(2_000_000_000)
    with pytest.raises(BundleError, match=f"{name} has 2000000000 bytes, more than"):
        Bundle.open(bundle_path)


def test_no_limit_is_above_that_of_any_file(linear: Any) -> None:
    """A manifest may claim any number of filter parameters. No more is read than a file may have."""
    claims = linear.manifest().model_copy(update={"filter_parameters": 10**40})
    assert largest_graph(claims) == largest_tensors(claims) == MAX_BYTES


def test_samples_larger_than_any_image_are_refused(linear: Any) -> None:
    """One number per channel describes any image, so a short manifest could claim gigabytes per sample."""
    image = {"name": "camera", "shape": (3, 20_000, 20_000), "unit": "1", "low": 0, "high": 1}
    with pytest.raises(ValueError, match=r"1\.2e\+09 numbers on one side, but at most 16777216 are allowed"):
        Manifest.model_validate(linear.manifest().model_dump() | {"inputs": [image]})


@pytest.mark.parametrize(
    ("name", "figures", "wrong"),
    [
        ("input_center", [0.0], r"shape \(1,\), but \(3,\) is wanted"),
        ("input_center", [0.0, math.nan, 0.0], "not finite"),
        ("input_scale", [1.0, 0.0, 1.0], "not above 0"),
        ("output_scale", [1.0, -1.0], "not above 0"),
        ("output_scale", [math.inf, 1.0], "not finite"),
    ],
)
def test_a_normalization_that_fits_no_sample_is_refused(
    linear: Any, name: str, figures: list[float], wrong: str
) -> None:
    """Predictions are compared in these scales: in an infinite one, every golden example would pass."""
    manifest = linear.manifest().model_dump()
    manifest["normalization"][name] = figures
    with pytest.raises(ValueError, match=f"the normalization does not fit the fields: its {name} .*{wrong}"):
        Manifest.model_validate(manifest)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"rate_hz": math.inf}, "rate_hz"),
        ({"parity": {"tolerance": math.inf}}, "tolerance"),
        ({"parity": {"tolerance": 0.0}}, "tolerance"),
        ({"input_limit": math.inf}, "input_limit"),
    ],
)
def test_numbers_that_switch_a_check_off_are_refused(linear: Any, change: dict[str, Any], place: str) -> None:
    """No loop has an infinite rate, and with an infinite tolerance the self-test would see nothing."""
    manifest = linear.manifest().model_dump()
    for name, value in change.items():
        manifest[name] = manifest[name] | value if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=place):
        Manifest.model_validate(manifest)


def test_a_manifest_of_many_files_is_refused(linear: Any) -> None:
    """All listed files are read into memory."""
    files = {f"file-{index}": "0" * 64 for index in range(100)}
    with pytest.raises(ValueError, match="100 files are listed, but at most 32 are allowed"):
        Manifest.model_validate(linear.manifest().model_dump() | {"files": files})


@pytest.mark.parametrize("steps", [0, -1, 4, 10**12])
def test_a_golden_example_of_other_steps_is_refused(write: Write, example: dict[str, Any], steps: int) -> None:
    """It has at most the inner steps of the manifest, so the self-test ends."""
    with pytest.raises(BundleError, match=f"steps is {steps}, but 1 to 3 are wanted"):
        AdaptiveModel.load(write({GOLDEN: archive(example | {"steps": np.array(steps)})}))


def zeros(rows: int, columns: int) -> bytes:
    """An array of zeros as an .npy file."""
    array = io.BytesIO()
    np.save(array, np.zeros((rows, columns), np.float32))
    return array.getvalue()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"support_x": zeros(5, 4_000_000)}, r"support_x has shape \(5, 4000000\)"),
        ({"support_x": zeros(8_000_000, 3), "support_y": zeros(8_000_000, 2)}, "8000000 shots and 4 queries"),
        ({"v": zeros(1, 20_000_000)}, r"v has shape \(1, 20000000\)"),
        ({"v": zeros(1, 4) + bytes(80_000_000)}, "v unpacks to 80000144 bytes, but its header says 144"),
    ],
    ids=["wide", "long", "other", "longer than its header"],
)
def test_an_archive_is_not_unpacked_beyond_its_shapes(
    write: Write, example: dict[str, Any], part: dict[str, bytes], said: str
) -> None:
    """A small file that would unpack to 80 MB or more is refused by its headers. Its arrays are never in memory."""
    packed = archive(example | part, zipfile.ZIP_DEFLATED)
    assert len(packed) < 1_000_000
    bundle = Bundle.open(write({GOLDEN: packed}))
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=rf"golden\.npz is not a golden example \(.*{said}"):
            bundle.golden()
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_an_archive_packed_by_another_method_is_refused(write: Write, example: dict[str, Any]) -> None:
    """LZMA may ask for gigabytes of memory to unpack a few bytes."""
    bundle = Bundle.open(write({GOLDEN: archive(example, zipfile.ZIP_LZMA)}))
    with pytest.raises(BundleError, match="packed by method 14"):
        bundle.golden()


def test_a_compressed_example_of_the_right_shapes_is_read(write: Write, example: dict[str, Any]) -> None:
    """Compression alone is no fault."""
    AdaptiveModel.load(write({GOLDEN: archive(example, zipfile.ZIP_DEFLATED)}))


def test_a_saved_adaptation_that_is_too_large_is_refused(bundle_path: Path) -> None:
    """By its size, or by the size that its header claims."""
    bundle = Bundle.open(bundle_path)
    large = save({"v": np.zeros((1, 1_000_000), np.float32)}, {"bundle": bundle.digest})
    with pytest.raises(BundleError, match=r"saved has 400\d+ bytes, but its manifest's tensors take less than"):
        decode_adaptation(large, bundle, "saved")
    for data in ((10**12).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]", b"", b"\xff" * 99):
        with pytest.raises(BundleError, match=r"saved cannot be read|not a saved adaptation|saved from bundle None"):
            decode_adaptation(data, bundle, "saved")
