"""Bundles in C, compiled and loaded."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from msr_c import Written, write_c
from msr_runtime import AdaptiveModel
from msr_runtime.bundle.rounding import Precision
from msr_runtime.bundle.store import Bundle

SHOTS = 9
SETTINGS: dict[str, dict[str, Any]] = {
    "gradient": {"method": "msr", "loss": "mse"},
    "steps apart": {"method": "msr", "loss": "huber", "step_rates": True},
    "classes": {"method": "msr", "loss": "cross_entropy"},
    "gauss-newton": {"method": "msr", "loss": "mse", "rule": "gauss-newton", "inner_steps": 2},
    "fewer filters": {"method": "msr", "loss": "mse", "rule": "gauss-newton", "inner_steps": 2, "filters": 3},
    "ridge": {"method": "maml", "loss": "mse", "depth": 0, "rule": "ridge"},
    "cavia": {"method": "cavia", "loss": "mse", "rule": "gauss-newton"},
    "kronecker": {"method": "msr", "loss": "mse", "form": "kronecker"},
    "kronecker steps": {"method": "msr", "loss": "mse", "form": "kronecker", "rule": "gradient"},
    "anil": {"method": "anil", "loss": "mse"},
    "prototypes": {"method": "protonets", "loss": "cross_entropy"},
    "recursive": {"method": "msr", "loss": "mse", "rule": "recursive", "time_constant": 30.0, "memory": 12},
}
_STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Werror", "-O2")


def _compiled(sources: Sequence[Path], target: Path, *options: str, compiler: str = "gcc") -> None:
    """Compile C99 with all warnings as errors."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    command = [compiler, *_STRICT, *options, *map(str, sources), "-lm", "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


class InC(NamedTuple):
    """A bundle, the model of it in ONNX Runtime, and its C code as a loaded library."""

    model: AdaptiveModel
    written: Written
    library: ctypes.CDLL
    name: str
    sizes: dict[str, int]

    def call(self, function: str, *arguments: Any) -> int:
        """Call a function. Arrays are handed over as pointers."""
        given = [ctypes.c_void_p(each.ctypes.data) if isinstance(each, np.ndarray) else each for each in arguments]
        return getattr(self.library, f"{self.name}_{function}")(*given)

    def update(self, filtered: NDArray, work: NDArray, x: NDArray, y: NDArray, seconds: float, said: NDArray) -> int:
        """Learn from one sample."""
        return self.call("update", filtered, work, x, y, ctypes.c_double(seconds), said)

    def memory(self, what: str) -> NDArray:
        """Return memory for a network, a workspace or a filter, filled with bytes that nobody meant."""
        return np.full(self.sizes[what], 0xA5, np.uint8)

    def predict(self, network: NDArray, x: NDArray) -> NDArray:
        """Predict from each x, which must succeed."""
        y = np.zeros((len(x), 2), np.float32)
        for one, of_one in zip(x, y, strict=True):
            assert self.call("predict", network, one, of_one) == 0
        return y

    def v(self, network: NDArray) -> NDArray:
        """Return the v of a network, which comes first in it."""
        return network[: 4 * self.model.manifest.filter_parameters].view(np.float32)


def _load(bundle: Path, folder: Path) -> InC:
    written = write_c(Bundle.open(bundle), folder, SHOTS)
    name, header = written.source.stem, written.header.read_text()
    kinds = [kind for kind in ("network", "workspace", "filter") if f"}} {name}_{kind};" in header]
    printed = " ".join(f'printf("%zu ", sizeof({name}_{kind}));' for kind in kinds)
    (folder / "sizes.c").write_text(
        f'#include "{written.header.name}"\n#include <stdio.h>\nint main(void) {{ {printed} return 0; }}\n'
    )
    _compiled([folder / "sizes.c"], folder / "sizes")
    sizes = subprocess.run([str(folder / "sizes")], check=True, capture_output=True).stdout.split()
    _compiled([written.source], folder / "library.so", "-shared", "-fPIC")
    library = ctypes.CDLL(str(folder / "library.so"))
    return InC(AdaptiveModel.load(bundle), written, library, name, dict(zip(kinds, map(int, sizes), strict=True)))


@pytest.fixture(scope="session")
def code(exporter: Any, once: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., InC]:
    """A function from the name of settings, and the bundle's precision, to its C code. Each is made once."""
    made: dict[tuple[str, str], InC] = {}

    def rounded(name: str, precision: Precision) -> Path:
        def fill(folder: Path) -> None:
            with torch.no_grad():
                exporter.write_rounded(folder / "bundle", precision, **SETTINGS[name])

        return once(f"{name}-{precision}-bundle", fill) / "bundle"

    def make(name: str, precision: Precision = "float32") -> InC:
        if (name, precision) not in made:
            bundle = exporter.bundle(**SETTINGS[name]) if precision == "float32" else rounded(name, precision)
            made[name, precision] = _load(bundle, tmp_path_factory.mktemp("c") / "c")
        return made[name, precision]

    return make


@pytest.fixture(scope="session")
def draw(exporter: Any) -> Callable[[str, int], tuple[NDArray, NDArray]]:
    """A function from the name of settings and a number of shots to random samples."""

    def draw(name: str, shots: int) -> tuple[NDArray, NDArray]:
        return exporter.draw(exporter.exported(**SETTINGS[name]), shots, seed=shots)

    return draw


@pytest.fixture(scope="session")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A function that compiles the program with the golden example, runs it and returns what it printed."""

    def run(written: Written, *options: str, compiler: str = "gcc") -> str:
        program = tmp_path_factory.mktemp("program") / "test"
        _compiled([written.source, written.test], program, *options, compiler=compiler)
        ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    return run
