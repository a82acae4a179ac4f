"""A requested provider runs the model, or the error says why it does not and what to install."""

import contextlib
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from msr_runtime import AdaptiveModel
from msr_runtime.errors import ProviderError
from msr_runtime.inference._onnxruntime import DISTRIBUTION, onnxruntime
from msr_runtime.inference.device import CPU, CUDA, TENSORRT, Device
from msr_runtime.inference.providers import (
    _ONE_NODE,
    _captured_stderr,
    check_providers,
    installed,
    preload_cuda,
    why_inactive,
)
from msr_runtime.inference.session import make_session

has_cuda = CUDA in onnxruntime.get_available_providers()
no_gpu = pytest.mark.skipif(not has_cuda or why_inactive(CUDA) is not None, reason="CUDA does not start here")
on_gpu = (pytest.mark.gpu, no_gpu)
cpu_only = pytest.mark.skipif(has_cuda, reason="the installed ONNX Runtime is built for CUDA")


@cpu_only
@pytest.mark.parametrize(
    "providers",
    [[CUDA], [CUDA, CPU], [(CUDA, {"device_id": 0}), CPU], [TENSORRT], [TENSORRT, CUDA, CPU]],
)
def test_a_provider_of_the_other_build_is_an_error(
    linear_files: dict[str, bytes], providers: list, capfd: pytest.CaptureFixture[str]
) -> None:
    """A request for a GPU never falls back to the CPU, not even if the CPU is named last. Nothing is printed."""
    with pytest.raises(ProviderError) as refusal:
        make_session(linear_files["predict.onnx"], "predict.onnx", providers)
    message = str(refusal.value)
    assert f"provider '{providers[0] if isinstance(providers[0], str) else providers[0][0]}'" in message
    assert f"onnxruntime {onnxruntime.__version__}" in message
    assert 'pip uninstall onnxruntime, then pip install "msr-runtime[gpu]"' in message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        ([], "the list of providers is empty; name at least one of"),
        (CPU, r"a list is wanted: \['CPUExecutionProvider'\]"),
        (["NoSuchExecutionProvider", CPU], "'NoSuchExecutionProvider' is not in the installed"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(providers: Any, message: str) -> None:
    """An empty list, a string in place of a list, and an unknown name are refused."""
    with pytest.raises(ProviderError, match=message):
        check_providers(providers)


def test_the_cpu_starts() -> None:
    """The CPU's provider starts on every machine."""
    assert why_inactive(CPU) is None
    check_providers([CPU])


def test_the_graph_that_providers_are_tried_on_is_valid() -> None:
    """It is a valid model with one node, in versions that every supported ONNX Runtime reads."""
    model = onnx.load_from_string(_ONE_NODE)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Relu"]
    assert (model.ir_version, model.opset_import[0].version) == (7, 14)


def test_what_libraries_write_to_stderr_is_gathered(capfd: pytest.CaptureFixture[str]) -> None:
    """Text from C++ is captured without color codes. Afterwards stderr works as before, also after an error."""
    with _captured_stderr() as log:
        os.write(2, b"\x1b[1;31mno library\x1b[m\n")
    assert log.getvalue() == "no library\n"
    with contextlib.suppress(KeyboardInterrupt), _captured_stderr():
        raise KeyboardInterrupt
    print("after", file=sys.stderr)
    assert capfd.readouterr() == ("", "after\n")


@cpu_only
def test_there_is_nothing_to_preload_in_a_build_without_cuda(capfd: pytest.CaptureFixture[str]) -> None:
    """Loading CUDA's libraries does nothing and prints nothing. Older versions of ONNX Runtime return a warning."""
    assert "Failed" not in preload_cuda()
    assert capfd.readouterr() == ("", "")


def test_the_distribution_is_named() -> None:
    """The distribution has the name that pip knows."""
    assert DISTRIBUTION is not None
    assert importlib.metadata.version(DISTRIBUTION) == onnxruntime.__version__
    assert installed() == f"{DISTRIBUTION} {onnxruntime.__version__}"


@pytest.mark.parametrize(
    "providers",
    [
        pytest.param([CPU], id="host"),
        pytest.param([CUDA, CPU], id="cuda", marks=on_gpu),
        pytest.param([(CUDA, {"enable_cuda_graph": "1"}), CPU], id="cuda-graph", marks=on_gpu),
    ],
)
def test_a_model_on_a_device_adapts_saves_and_loads(
    bundle_path: Path, linear: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, providers: list
) -> None:
    """A model whose values have their own memory computes the same as one with shared memory.

    This is tested on a GPU if there is one, and on the CPU with values that do not share numpy's memory.
    """
    if providers == [CPU]:
        monkeypatch.setattr("msr_runtime.adaptation.onnx_backend.device_of", lambda _: Device(copies=True))
    model, other = (AdaptiveModel.load(bundle_path, providers) for _ in range(2))
    rng = np.random.default_rng(0)
    for steps in (1, 2, 3):
        x, y, query = (rng.standard_normal((5, size)).astype(np.float32) for size in (3, 2, 3))
        assert model.adapt(x, y, steps).accepted
        adapted = linear.predict(linear.adapt(x, y, steps), query)
        np.testing.assert_allclose(model.predict(query), adapted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.predict(query[0]), adapted[0], rtol=1e-4, atol=1e-5)
        model.save_adaptation(tmp_path / "a.safetensors")
        other.load_adaptation(tmp_path / "a.safetensors")
        np.testing.assert_array_equal(other.predict(query), model.predict(query))
    model.reset()
    np.testing.assert_allclose(model.predict(query), linear.predict(linear.v0, query), rtol=1e-4, atol=1e-5)
