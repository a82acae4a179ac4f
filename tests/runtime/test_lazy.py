"""Packages import a name when it is first used, so that a robot's program loads what it needs and nothing else."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import msr_runtime
from msr_runtime.lazy import at_first_use

LOAD = """
import json, sys
from msr_runtime import AdaptiveModel
AdaptiveModel.load(sys.argv[1], engine=sys.argv[2])
print(json.dumps([*sys.modules]))
"""
UNUSED = {
    *("msr_runtime.adaptation.online", "msr_runtime.cli", "msr_runtime.control", "msr_runtime.families"),
    *("msr_runtime.meta", "msr_runtime.recording", "msr_runtime.serving", "msr_envs", "msr_export", "msr_c"),
    *("asyncio", "cryptography", "mcap", "numpy.random", "onnx", "ssl", "torch", "tyro", "websockets"),
}
"""What no robot imports to load a bundle, with its self-test."""
OF_GRAPHS = {"google.protobuf", "msr_runtime.adaptation.onnx_backend", "msr_runtime.bundle.graphs", "onnxruntime"}
"""What only a robot imports that runs graphs."""


@pytest.mark.parametrize("package", ["msr_runtime", "msr_runtime.adaptation", "msr_runtime.inference"])
def test_every_public_name_is_there(package) -> None:
    module = importlib.import_module(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_another_name_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'msr_runtime' has no attribute 'Adaptive'"):
        _ = msr_runtime.Adaptive
    with pytest.raises(AttributeError, match="module 'robot' has no attribute 'arm'"):
        at_first_use("robot", {"json": ("loads",)})("arm")


def imported(bundle: Path, engine: str) -> set[str]:
    """The modules of a new process that loaded a bundle."""
    command = [sys.executable, "-c", LOAD, bundle, engine]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_a_loaded_model_imports_no_control_loop_and_no_extra(bundle_path: Path) -> None:
    loaded = imported(bundle_path, "onnx")
    assert loaded >= OF_GRAPHS | {"msr_runtime.adaptation.model"}
    assert loaded & UNUSED == set()


def test_native_code_imports_nothing_that_runs_graphs(
    bundle_path: Path, compiled: Callable[[str, Path], Path], native_recursive_bundle: Path
) -> None:
    """With any rule: the golden example is compared with the numbers in the bundle, and no graph is looked into."""
    for path in (compiled("linear", bundle_path), native_recursive_bundle):
        loaded = imported(path, "native")
        assert "msr_runtime.adaptation.native_backend" in loaded
        assert loaded & (UNUSED | OF_GRAPHS) == set()
