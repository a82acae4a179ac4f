"""Loading a model: the self-test on the golden example, and files that do not belong together."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from msr_runtime import AdaptiveModel, Bundle, BundleError, ProviderError
from msr_runtime.adaptation.first_run import run_first
from msr_runtime.adaptation.self_test import replay_golden_example
from msr_runtime.adaptation.sessions import Sessions
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


def slow(model: bytes, output: str, source: str | None = None) -> bytes:
    """The same model with a thousand products of large matrices, which take some ten seconds.

    They depend on the input `source`, or on constants alone.
    """
    parsed = onnx.load_from_string(model)
    graph = parsed.graph
    for node in graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = "before" if name == output else name
        for index, name in enumerate(node.input):
            node.input[index] = "before" if name == output else name
    graph.initializer.append(numpy_helper.from_array(np.zeros((600, 600), np.float32), "square"))
    if source:
        graph.node.append(helper.make_node("ReduceSum", [source], ["sum"], keepdims=0))
        graph.node.append(helper.make_node("Add", ["square", "sum"], ["product 0"]))
    else:
        graph.node.append(helper.make_node("Identity", ["square"], ["product 0"]))
    for index in range(1000):
        graph.node.append(helper.make_node("MatMul", [f"product {index}", "square"], [f"product {index + 1}"]))
    graph.node.append(helper.make_node("ReduceSum", ["product 1000"], ["nothing"], keepdims=0))
    graph.node.append(helper.make_node("Add", ["before", "nothing"], [output]))
    return parsed.SerializeToString()


@pytest.mark.parametrize(
    ("file", "output", "source"), [(PREDICT, "y", "x"), (PREDICT, "y", None), (LOSS, "loss", None)]
)
def test_the_first_run_ends(
    write: Write, linear_files: dict[str, bytes], file: str, output: str, source: str | None
) -> None:
    """Also where all that takes long could be computed in advance: then making the session would never end."""
    bundle = Bundle.open(write({file: slow(linear_files[file], output, source)}))
    with pytest.raises(BundleError, match=r"\.onnx takes longer than the 0.02 s allowed"):
        run_first(bundle, longest=0.02)


def test_the_self_test_ends(write: Write, linear_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a run, not only between two inner steps. The sessions themselves have no limit afterwards."""
    monkeypatch.setattr("msr_runtime.adaptation.onnx_backend.run_first", lambda bundle: None)
    bundle = Bundle.open(write({ADAPT: slow(linear_files[ADAPT], "v_next", "support_x")}))
    sessions = Sessions(bundle, ["CPUExecutionProvider"])
    with pytest.raises(BundleError, match=r"golden example takes longer than the 0.02 s allowed.*machine"):
        replay_golden_example(bundle, sessions, longest=0.02)
    assert np.isfinite(sessions.start(np.zeros(3))).all()


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
