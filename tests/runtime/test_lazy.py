"""Packages import a name when it is first used, so that a robot's program loads what it needs and nothing else."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import msr_runtime
from msr_runtime.lazy import at_first_use


@pytest.mark.parametrize("package", ["msr_runtime", "msr_runtime.adaptation"])
def test_every_public_name_is_there(package) -> None:
    module = importlib.import_module(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_another_name_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'msr_runtime' has no attribute 'Adaptive'"):
        _ = msr_runtime.Adaptive
    with pytest.raises(AttributeError, match="module 'robot' has no attribute 'arm'"):
        at_first_use("robot", {"json": ("loads",)})("arm")


def test_a_loaded_model_imports_no_control_loop_and_no_extra(bundle_path: Path) -> None:
    code = (
        "import json, sys; from msr_runtime import AdaptiveModel; model = AdaptiveModel.load(sys.argv[1]);"
        "print(json.dumps([*sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code, bundle_path], check=True, capture_output=True, text=True)
    loaded = set(json.loads(done.stdout))
    assert "msr_runtime.adaptation.model" in loaded
    unused = {"msr_runtime.adaptation.online", "msr_runtime.control", "msr_runtime.recording", "msr_runtime.serving"}
    unused |= {"asyncio", "cryptography", "mcap", "msr_runtime.cli", "ssl", "tyro", "websockets"}
    assert loaded & unused == set()
