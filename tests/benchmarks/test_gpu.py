"""What `gpu.py` measures on a GPU is measured here on the CPU, and without a GPU it refuses to begin."""

import gpu
import pytest
import torch
from gpu import FILTERS, WORK, Place, main, measure, run_tests, training
from gpu import Options as Settings
from latency import Network
from tables import TABLES

from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.device import CPU, CUDA

without_gpu = pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="ONNX Runtime may find a GPU")


@without_gpu
def test_without_a_gpu_nothing_begins(capfd) -> None:
    """The message says which package is missing."""
    with pytest.raises(SystemExit, match=r"without a GPU: provider 'CUDAExecutionProvider' .*msr-runtime\[gpu\]"):
        main(Settings(store="gpu"))
    assert capfd.readouterr() == ("", "")


def test_a_torch_that_uses_no_gpu_is_named(monkeypatch) -> None:
    monkeypatch.setattr(gpu, "check_providers", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"ONNX Runtime uses the GPU, but torch .* does not; install"):
        gpu.require_gpu()


@pytest.mark.slow
def test_predictions_adaptations_and_outer_steps_are_timed() -> None:
    """On the CPU in place of a GPU, by the same code."""
    settings = Settings(rounds=10, batch=7, compile=False)
    rows = measure("small", Network(width=8, filters=4, steps=(1,)), Place("cpu", {"bound": (CPU,)}), settings)
    for work in WORK:
        rows += [training(work, 2, "cpu", 0.01), training(work, 2, "cpu", 0.01) | {"device": "cuda"}]
    rounded = training(FILTERS, 2, "cpu", 0.01, "bfloat16")
    assert rounded["device"] == "cpu, bfloat16"
    rows += [rounded | {"device": "cuda, bfloat16"}]
    lines = TABLES["gpu"].lines(rows)
    wanted = ["small, predict, samples: 1", "small, predict, samples: 7", "small, adapt, steps: 1"]
    assert [line["call"] for line in lines] == wanted
    assert all(float(line[who]) > 0 for line in lines for who in ("bound", "torch eager"))
    robot, images = TABLES["gpu/training"].lines(rows)
    assert [line["tasks per step"] for line in (robot, images)] == [f"{work}: 2" for work in WORK]
    assert robot["bfloat16 over float32, GPU"] == "–"
    assert float(images["bfloat16 over float32, GPU"]) > 0


@without_gpu
@pytest.mark.slow
def test_tests_that_were_skipped_count_as_no_result() -> None:
    """They are skipped here, each with the reason."""
    with pytest.raises(SystemExit, match=r"of [1-9]\d* tests for the GPU, 0 failed and [1-9]\d* were skipped"):
        run_tests()
