"""A bundle on an NVIDIA GPU. These tests need one: `benchmarks/gpu.py` runs them there."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel
from msr_runtime.errors import ProviderError
from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.device import CPU, CUDA
from msr_runtime.inference.providers import check_providers
from msr_runtime.inference.session import make_session


def _reason() -> str:
    """Why CUDA does not start here. Empty if it does."""
    with contextlib.suppress(ProviderError):
        check_providers([CUDA])
        return ""
    return f"there is no GPU that onnxruntime {onnxruntime.__version__} can use"


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(_reason()), reason=_reason())]
GRAPHS = (CUDA, {"enable_cuda_graph": "1"})


@pytest.mark.parametrize("first", [CUDA, GRAPHS], ids=["cuda", "cuda-graph"])
def test_the_gpu_computes_what_the_cpu_computes(bundle_path: Path, first: Any) -> None:
    """For one sample and for batches, before and after an adaptation, in turns, so that graphs are replayed."""
    here, there = AdaptiveModel.load(bundle_path, [first, CPU]), AdaptiveModel.load(bundle_path)
    rng = np.random.default_rng(0)
    for batch in (1, 5, 1, 5, 300):
        x, y, query = (rng.standard_normal((batch, size)).astype(np.float32) for size in (3, 2, 3))
        for model in (here, there):
            assert model.adapt(x, y, 2).accepted
        np.testing.assert_allclose(here.predict(query), there.predict(query), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(here.predict(query[0]), there.predict(query[0]), rtol=1e-4, atol=1e-5)


def test_tensors_stay_on_the_gpu(linear_files: dict[str, bytes]) -> None:
    """The results of a bound run are on the device, so the inner loop copies nothing between two steps."""
    session = make_session(linear_files["predict.onnx"], "predict.onnx", [CUDA])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((4, 3), np.float32), "cuda", 0))
    binding.bind_output("y", "cuda", 0)
    session.run_with_iobinding(binding)
    assert binding.get_outputs()[0].device_name() == "cuda"


def test_nothing_falls_back_to_the_cpu(linear_files: dict[str, bytes]) -> None:
    """A session that was asked for on the GPU runs there, and names no other provider as the first."""
    session = make_session(linear_files["predict.onnx"], "predict.onnx", [CUDA])
    assert session.get_providers()[0] == CUDA
