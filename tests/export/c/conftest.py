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
from msr_c.graphs.constants import Constants
from msr_c.graphs.graph import Graph
from msr_c.rewriting.layout import absorb_transposes, drop_views
from msr_c.writing.kernels import kernels
from msr_c.writing.operations import Writer, add_scratch
from msr_c.writing.text import array, identifier
from msr_runtime import AdaptiveModel
from msr_runtime.bundle.rounding import Precision
from msr_runtime.bundle.store import Bundle
from msr_runtime.inference.native import compile_source, find_compiler

SHOTS = 9
MOST = 7
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
    compiled = written.source.with_suffix(".o")
    _compiled([written.source], compiled, "-c", "-fPIC")
    _compiled([compiled], folder / "library.so", "-shared")
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
    """A function that compiles the program with the golden example, runs it and returns what it printed.

    What the library was made of serves once more, unless a test asks for another compiler or for options.
    """

    def run(written: Written, *options: str, compiler: str = "gcc") -> str:
        program, compiled = tmp_path_factory.mktemp("program") / "test", written.source.with_suffix(".o")
        same = compiler == "gcc" and not options and compiled.exists()
        _compiled([compiled if same else written.source, written.test], program, *options, compiler=compiler)
        ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    return run


class GraphsInC:
    """Functions in C from graphs, by name, for at most `MOST` samples."""

    def __init__(self, graphs: dict[str, Graph], compiler: str, folder: Path) -> None:
        constants, called, functions = Constants(), set[str](), []
        self.graphs, self.memory = graphs, dict[str, dict[str, int]]()
        for name, graph in graphs.items():
            for _ in range(2):
                absorb_transposes(graph)
                drop_views(graph)
            add_scratch(graph, constants, MOST)
            arrays = [*graph.inputs, *graph.outputs]
            writer = Writer(graph, constants, MOST, {each: identifier(each) for each in arrays})
            body = "\n".join(f"    {line}" for line in writer.lines())
            called |= writer.kernels
            self.memory[name] = {dtype: writer.memory.sizes.get(dtype, 0) for dtype in ("float", "int")}
            places = [f"float *restrict {identifier(each)}" for each in arrays]
            places += ["float *restrict work_float", "int *restrict work_int"]
            functions.append(f"void {name}(int n, {', '.join(places)});")
            functions.append(
                f"void {name}(int n, {', '.join(places)})\n{{\n    (void)work_float;\n    (void)work_int;\n{body}\n}}"
            )
        known = [array(name, value) for name, value in constants.arrays.items()]
        includes = "#include <math.h>\n#include <stdint.h>\n#include <string.h>\n"
        source = "\n".join([includes, *known, kernels(called), *functions])
        path = folder / "code.so"
        path.write_bytes(compile_source(source.encode(), find_compiler(compiler)))
        self.library = ctypes.CDLL(str(path))

    def run(self, name: str, given: dict[str, NDArray]) -> dict[str, NDArray]:
        """Call a function with arrays by name, and return its results. It must not write past its memory."""
        graph = self.graphs[name]
        n = len(given[graph.inputs[0]])
        made = {each: np.full(graph[each].size.at(n), np.nan, np.float32) for each in graph.outputs}
        types = {"float": np.float32, "int": np.int32}
        work = [np.full(size + 16, 77, types[dtype]) for dtype, size in self.memory[name].items()]
        sent = [given[each] for each in graph.inputs] + list(made.values())
        pointers = [ctypes.c_void_p(each.ctypes.data) for each in (*sent, *work)]
        getattr(self.library, name)(n, *pointers)
        assert all(np.all(each[-16:] == 77) for each in work)
        return {each: value.reshape([dim.at(n) for dim in graph[each].shape]) for each, value in made.items()}


@pytest.fixture(scope="session")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., GraphsInC]:
    """A function from graphs by name, and a compiler, to their functions in C. Their first input counts the samples."""

    def make(graphs: dict[str, Graph], compiler: str = "gcc") -> GraphsInC:
        if shutil.which(compiler) is None:
            pytest.skip(f"{compiler} is not installed")
        return GraphsInC(graphs, compiler, tmp_path_factory.mktemp("graphs"))

    return make
