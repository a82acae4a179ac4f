"""Bundles in C, compiled and loaded."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_c import Written, write_c
from msr_runtime import AdaptiveModel
from msr_runtime.bundle.store import Bundle

STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Werror", "-O2")
SHOTS = 9


class InC(NamedTuple):
    """A bundle, the model of it in ONNX Runtime, and its C code as a loaded library."""

    model: AdaptiveModel
    written: Written
    library: ctypes.CDLL
    name: str

    def call(self, function: str, *arguments: Any) -> int:
        """Call a function. Arrays are handed over as pointers."""
        given = [each.ctypes if isinstance(each, np.ndarray) else each for each in arguments]
        return getattr(self.library, f"{self.name}_{function}")(*given)

    def memory(self, what: str) -> NDArray:
        """Return memory for a network, a workspace or a filter, filled with bytes that nobody meant."""
        header = self.written.header.read_text()
        source = self.written.header.parent / f"size_{what}.c"
        source.write_text(
            f'#include "{self.written.header.name}"\n#include <stdio.h>\n'
            f'int main(void) {{ printf("%zu", sizeof({self.name}_{what})); return 0; }}\n'
        )
        assert f"{self.name}_{what};" in header
        program = source.with_suffix("")
        compiled([source], program)
        return np.full(int(subprocess.run([str(program)], check=True, capture_output=True).stdout), 0xA5, np.uint8)

    def adapt(self, x: NDArray, y: NDArray, steps: int) -> tuple[int, NDArray, NDArray]:
        """Adapt from v0, and return the status, v and the losses."""
        network, losses = self.memory("network"), np.full(2, np.nan, np.float32)
        self.call("init", network)
        y = y.astype(np.int32) if y.dtype.kind == "i" else y
        ends = losses[:1], losses[1:]
        status = self.call("adapt", network, self.memory("workspace"), x, y, len(x), steps, *ends)
        return status, self.v(network), losses

    def v(self, network: NDArray) -> NDArray:
        """Return the v of a network, which comes first in it."""
        return network[: 4 * self.model.manifest.filter_parameters].view(np.float32)


def compiled(sources: Sequence[Path], target: Path, *options: str, compiler: str = "gcc") -> None:
    """Compile C99 with all warnings as errors."""
    command = [compiler, *STRICT, *options, *map(str, sources), "-lm", "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def compile_c() -> Callable[..., None]:
    """The function `compiled`; the test is skipped where there is no gcc."""
    if shutil.which("gcc") is None:
        pytest.skip("compiling needs gcc")
    return compiled


@pytest.fixture(scope="session")
def in_c(compile_c: Callable[..., None]) -> Callable[..., InC]:
    """A function that writes a bundle as C, compiles it and loads it."""

    def make(bundle: Path, folder: Path, shots: int = SHOTS, **options: Any) -> InC:
        opened = Bundle.open(bundle)
        written = write_c(opened, folder, shots=shots, **options)
        compile_c([written.source], folder / "library.so", "-shared", "-fPIC")
        library = ctypes.CDLL(str(folder / "library.so"))
        return InC(AdaptiveModel.load(bundle), written, library, written.source.stem)

    return make
