"""The C code of a bundle computes what ONNX Runtime computes, with every rule."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msr_c import write_c
from msr_runtime.arrays import relative_error
from msr_runtime.bundle.store import Bundle

SETTINGS: dict[str, dict[str, Any]] = {
    "gradient": {"method": "msr", "loss": "mse"},
    "gradient, huber": {"method": "msr", "loss": "huber", "step_rates": True},
    "gauss-newton": {"method": "msr", "loss": "mse", "rule": "gauss-newton", "inner_steps": 2},
    "ridge": {"method": "maml", "loss": "mse", "depth": 0, "rule": "ridge"},
    "cavia": {"method": "cavia", "loss": "mse", "rule": "gauss-newton"},
    "kronecker": {"method": "msr", "loss": "mse", "form": "kronecker"},
    "anil": {"method": "anil", "loss": "mse"},
}


@pytest.fixture(scope="module")
def bundles(exporter: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from the name of settings to a bundle."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            with torch.no_grad():
                export = exporter.exported(**SETTINGS[name])
                made[name] = exporter.write(export, tmp_path_factory.mktemp("bundle") / "bundle")
        return made[name]

    return make


@pytest.mark.parametrize("name", SETTINGS)
def test_the_golden_example_comes_back(
    bundles: Callable[[str], Path], compile_c: Callable[..., None], tmp_path: Path, name: str
) -> None:
    """In the program that is written beside the code."""
    written = write_c(Bundle.open(bundles(name)), tmp_path)
    compile_c([written.source, written.test], tmp_path / "test")
    ran = subprocess.run([str(tmp_path / "test")], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.count("allowed") == 4
    assert ran.stdout.endswith("passed\n")


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("shots", "steps"), [(1, 1), (4, 3), (9, 2)])
def test_it_adapts_as_onnx_runtime(
    bundles: Callable[[str], Path],
    in_c: Callable[..., Any],
    exporter: Any,
    tmp_path: Path,
    name: str,
    shots: int,
    steps: int,
) -> None:
    """To random samples, fewer than the code takes at most, in several steps."""
    code = in_c(bundles(name), tmp_path)
    x, y = exporter.draw(exporter.exported(**SETTINGS[name]), shots, seed=shots)
    acting = code.model.adapted(x, y, steps)
    status, v, losses = code.adapt(x, y, steps)
    assert status == 0
    assert relative_error(v[None], acting.tensors["v"]) < 1e-5
    assert np.isfinite(losses).all()
    predicted, network = np.zeros((shots, 2), np.float32), code.memory("network")
    code.call("init", network)
    for index in range(shots):
        assert code.call("predict", network, x[index], predicted[index]) == 0
    assert relative_error(predicted, code.model.predict(x)) < 1e-5
