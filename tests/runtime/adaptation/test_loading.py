"""Loading a model: the self-test on the golden example, and files that do not belong together."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, BundleError, ProviderError
from msr_runtime.bundle.store import ADAPT, GOLDEN, LOSS, PREDICT, START, Golden, encode_start

Write = Callable[..., Path]


def test_a_provider_that_is_not_there_is_an_error(bundle_path: Path) -> None:
    """Loading never falls back to another provider silently."""
    with pytest.raises(ProviderError, match="CUDAExecutionProvider"):
        AdaptiveModel.load(bundle_path, providers=["CUDAExecutionProvider"])


def changed_golden(raw: bytes, **parts: Any) -> bytes:
    """The golden example with parts replaced."""
    with np.load(io.BytesIO(raw)) as arrays:
        return Golden(**dict(arrays) | parts).to_bytes()


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("y0", np.zeros((4, 2), np.float32), "prediction at v0 is off"),
        ("v", np.zeros((1, 4), np.float32), "adapted v is off"),
        ("y", np.full((4, 2), np.nan, np.float32), "adapted prediction is off by inf"),
        ("y", np.zeros((1, 2), np.float32), "y has shape"),
        ("losses", np.zeros(2, np.float32), "support losses is off by"),
        ("x", np.zeros((4, 5), np.float32), "x has shape"),
        ("steps", 0, "steps is 0"),
        ("support_x", np.full((5, 3), 1e30, np.float32), "not finite on this machine"),
    ],
)
def test_a_golden_example_that_comes_out_otherwise_is_refused(
    write: Write, linear_files: dict[str, bytes], part: str, value: Any, message: str
) -> None:
    """The self-test names what differs and by how much; `self_test=False` skips it."""
    path = write({GOLDEN: changed_golden(linear_files[GOLDEN], **{part: value})})
    with pytest.raises(BundleError, match=message):
        AdaptiveModel.load(path)
    AdaptiveModel.load(path, self_test=False)


def test_the_self_test_ends(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example whose inner steps take longer than the limit is refused between two of them."""
    monkeypatch.setattr("msr_runtime.adaptation.self_test._LONGEST", -1.0)
    with pytest.raises(BundleError, match="its 3 inner steps take longer"):
        AdaptiveModel.load(bundle_path)


def start(**parts: np.ndarray) -> bytes:
    """The bytes of a start with some tensors replaced; the others are zeros."""
    tensors = {"v": np.zeros((1, 4), np.float32), "layer.weight": np.zeros((2, 3), np.float32)} | parts
    return encode_start(tensors)


THREE_OUTPUTS = {
    "outputs": [{"name": "f", "shape": (3,), "unit": "1", "low": 0, "high": 1}],
    "normalization": {
        "input_center": [0.0] * 3,
        "input_scale": [1.0] * 3,
        "output_center": [0.0] * 3,
        "output_scale": [1.0] * 3,
    },
}


@pytest.mark.parametrize(
    ("files", "values", "message"),
    [
        ({PREDICT: b"no model"}, {}, r"predict\.onnx is refused"),
        ({ADAPT: b"no model"}, {}, r"adapt\.onnx is refused"),
        ({LOSS: b"no model"}, {}, r"loss\.onnx is refused"),
        ({START: b""}, {}, "start.safetensors"),
        ({START: start(v=np.full((1, 4), np.nan, np.float32))}, {}, "finite float32"),
        ({START: start(v=np.zeros((1, 5), np.float32))}, {}, r"\(1, 5\)"),
        ({START: start(v=np.zeros((1, 4), np.float32))}, {}, "off by"),
        ({START: encode_start({"v": np.zeros((1, 4), np.float32)})}, {}, "'layer.weight' is missing"),
        ({START: start(**{"layer.weight": np.zeros((2, 3), np.float32)})}, {}, "prediction at v0 is off by"),
        ({}, {"filter_parameters": 5}, r"'v': \[1, 5\]"),
        ({}, {"weights": ({"name": "layer.weight", "shape": (3, 2)},)}, "manifest wants"),
        ({}, {"weights": ({"name": "other", "shape": (2, 3)},)}, "manifest wants"),
        ({}, THREE_OUTPUTS, "make 3 numbers"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    write: Write, files: dict[str, bytes], values: dict, message: str
) -> None:
    """Graphs, filter parameters and manifest are compared while loading."""
    with pytest.raises(BundleError, match=message):
        AdaptiveModel.load(write(files, **values))


def test_swapped_graphs_are_refused(write: Write, linear_files: dict[str, bytes]) -> None:
    """A graph under the name of another is refused."""
    for one, other in ((PREDICT, ADAPT), (ADAPT, LOSS), (PREDICT, LOSS)):
        with pytest.raises(BundleError, match="not of one export"):
            AdaptiveModel.load(write({one: linear_files[other], other: linear_files[one]}))
