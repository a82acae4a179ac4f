"""What the C code refuses, with which sanitizers it runs, and on which processor."""

import math
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from msr_c import Written, write_c
from msr_runtime.bundle.store import ADAPT, write_bundle
from msr_runtime.errors import ExportError

ROOT = Path(__file__).parents[3]
NOT_FINITE, OUT_OF_LIMITS, WRONG_SHOTS, WRONG_STEPS, NOT_FINITE_RESULT = 1, 2, 3, 4, 6


class TestBadInput:
    """No bad input reaches a network."""

    @pytest.mark.parametrize(
        ("change", "shots", "steps", "status"),
        [
            ({"x": math.nan}, 3, 1, NOT_FINITE),
            ({"y": math.inf}, 3, 1, NOT_FINITE),
            ({"x": 1e6}, 3, 1, OUT_OF_LIMITS),
            ({"y": -1e6}, 3, 1, OUT_OF_LIMITS),
            ({}, 0, 1, WRONG_SHOTS),
            ({}, 10, 1, WRONG_SHOTS),
            ({}, 3, 0, WRONG_STEPS),
        ],
    )
    def test_adapt_refuses_it(
        self,
        code: Callable[[str], Any],
        draw: Callable[..., Any],
        change: dict[str, float],
        shots: int,
        steps: int,
        status: int,
    ) -> None:
        """The network and the losses stay as they were."""
        here = code("gradient")
        x, y = draw("gradient", 10)
        for name, value in change.items():
            {"x": x, "y": y}[name][2, 1] = value
        network, losses = here.memory("network"), np.full(2, 7, np.float32)
        here.call("init", network)
        before = network.copy()
        ends = losses[:1], losses[1:]
        assert here.call("adapt", network, here.memory("workspace"), x, y, shots, steps, *ends) == status
        assert (network == before).all()
        assert (losses == 7).all()

    def test_a_result_that_is_not_finite_is_no_network(
        self, code: Callable[[str], Any], draw: Callable[..., Any]
    ) -> None:
        """Many steps at absurd samples within their limits diverge: the old v stays."""
        here = code("gradient")
        x, y = draw("gradient", 9)
        network, losses = here.memory("network"), np.zeros(2, np.float32)
        here.call("init", network)
        before = network.copy()
        x, y = np.sign(x) * np.array([400, 400, 40, 40], np.float32), np.sign(y) * np.float32(180)
        ends = losses[:1], losses[1:]
        status = here.call("adapt", network, here.memory("workspace"), x, y, 9, 500, *ends)
        assert status == NOT_FINITE_RESULT
        assert (network == before).all()

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_predict_refuses_it(self, code: Callable[[str], Any], value: float) -> None:
        """And writes nothing."""
        here = code("gradient")
        network, y = here.memory("network"), np.full(2, 7, np.float32)
        here.call("init", network)
        assert here.call("predict", network, np.array([0, value, 0, 0], np.float32), y) == NOT_FINITE
        assert (y == 7).all()

    @pytest.mark.parametrize(("value", "seconds"), [(math.nan, 0.02), (0.0, -1.0), (0.0, math.nan), (0.0, math.inf)])
    def test_update_refuses_it(self, code: Callable[[str], Any], value: float, seconds: float) -> None:
        """The filter stays as it was."""
        here = code("recursive")
        filtered, innovation = here.memory("filter"), np.full(5, 7, np.float32)
        here.call("filter_init", filtered)
        before = filtered.copy()
        x, y = np.array([0, value, 0, 0], np.float32), np.zeros(2, np.float32)
        assert here.update(filtered, here.memory("workspace"), x, y, seconds, innovation) == NOT_FINITE
        assert (filtered == before).all()
        assert (innovation == 7).all()


class TestRefusals:
    """What cannot be written is refused by name, and nothing is written."""

    def test_an_operator_that_is_not_known(self, code: Callable[[str], Any], tmp_path: Path) -> None:
        """The message names it and the graph."""
        bundle = code("gradient").model.bundle
        model = onnx.load_from_string(bundle.files[ADAPT])
        next(node for node in model.graph.node if node.op_type == "Sigmoid").op_type = "Softplus"
        files = {**bundle.files, ADAPT: model.SerializeToString()}
        changed = write_bundle(tmp_path / "bundle", bundle.manifest, files)
        with pytest.raises(ExportError, match=r"adapt\.onnx has the operators Softplus, which cannot be written in C"):
            write_c(changed, tmp_path / "c")
        assert not (tmp_path / "c").exists()

    def test_fewer_shots_than_the_golden_example(self, code: Callable[[str], Any], tmp_path: Path) -> None:
        """It could not be tested."""
        with pytest.raises(ExportError, match="shots is 2, but the golden example"):
            write_c(code("gradient").model.bundle, tmp_path / "c", shots=2)
        assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("name", "compiler"),
    [
        *product(("gradient", "gauss-newton"), ("gcc", "clang")),
        ("recursive", "gcc"),
        pytest.param("recursive", "clang", marks=pytest.mark.slow),  # clang takes half a minute with its checks
    ],
)
def test_sanitizers_find_nothing(
    code: Callable[..., Any], replayed: Callable[..., str], compiler: str, name: str
) -> None:
    """No byte outside, nothing undefined, with both compilers and without a warning."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed: apt-get install {compiler}")
    options = "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    assert replayed(code(name, precision="int8").written, *options, compiler=compiler).endswith("passed\n")


def test_a_cpp_program_includes_the_header(code: Callable[[str], Any], tmp_path: Path) -> None:
    """The functions have C's names there too."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: apt-get install g++")
    here = code("gradient")
    program = tmp_path / "main.cpp"
    program.write_text(
        f'#include "{here.written.header}"\n'
        f"int main() {{ static {here.name}_network n; {here.name}_init(&n); return n.v[0] == 0.0f; }}\n"
    )
    object_file = tmp_path / "network.o"
    subprocess.run(["gcc", "-std=c99", "-c", str(here.written.source), "-o", str(object_file)], check=True)
    linked = ["g++", "-Wall", "-Wextra", "-Werror", str(program), str(object_file), "-lm", "-o", str(tmp_path / "main")]
    subprocess.run(linked, check=True)
    assert subprocess.run([str(tmp_path / "main")], check=False).returncode == 0


@pytest.mark.parametrize("name", ["gradient", "gauss-newton", "recursive"])
def test_a_cortex_m7_computes_the_same(code: Callable[..., Any], name: str) -> None:
    """Cross-compiled, and run on an emulated board."""
    if missing := [tool for tool in ("arm-none-eabi-gcc", "qemu-system-arm") if shutil.which(tool) is None]:
        pytest.skip(
            f"{missing[0]} is not installed: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
        )
    folder = code(name, precision="float16").written.source.parent
    ran = subprocess.run([str(ROOT / ".ci/cortex-m7"), str(folder)], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ".rodata" in ran.stdout
    assert ran.stdout.endswith("passed\n")


@pytest.mark.parametrize("option", ["-ffast-math", "-Ofast"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_options_with_which_all_results_are_wrong_are_refused(
    code: Callable[..., Any], compiler: str, option: str
) -> None:
    """A program would learn it only from the test of the golden example, which need not be run."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed: apt-get install {compiler}")
    assert "leave out -ffast-math" in _refusal(code("gradient").written, option, compiler=compiler)


class TestNames:
    """What a bundle says of itself is no program: it may stand in a comment, and name things."""

    def test_words_of_a_bundle_cannot_leave_a_comment(self, code: Callable[[str], Any], tmp_path: Path) -> None:
        """With its ends, lines, words of templates and of C in each text. The code compiles without a warning."""
        bundle = code("gradient").model.bundle
        evil = '*/ int x = @name@; #error "no" /* \n\\\n#error no'
        fields = tuple(
            each.model_copy(update={"name": f"int {index} {evil}", "unit": evil})
            for index, each in enumerate(bundle.manifest.inputs)
        )
        manifest = bundle.manifest.model_copy(update={"name": f"graph {evil}", "inputs": fields})
        written = write_c(replace(bundle, manifest=manifest), tmp_path / "a folder; with \n a line")
        assert written.source.is_file()
        _compile(written)
        assert "#error no" not in written.header.read_text().splitlines()

    @pytest.mark.parametrize("name", ["graph", "for", "1", "", "übung", "-"])
    def test_any_family_name_becomes_one_of_c(self, code: Callable[[str], Any], tmp_path: Path, name: str) -> None:
        """Also keywords, digits, nothing, and names that the code itself uses."""
        bundle = code("gradient").model.bundle
        manifest = bundle.manifest.model_copy(update={"name": name})
        _compile(write_c(replace(bundle, manifest=manifest), tmp_path / "c"))

    def test_fields_that_c_cannot_tell_apart(self, code: Callable[[str], Any], tmp_path: Path) -> None:
        """Both are named, and nothing is written."""
        bundle = code("gradient").model.bundle
        fields = tuple(
            each.model_copy(update={"name": name})
            for each, name in zip(bundle.manifest.inputs, ["a b", "a.b"], strict=True)
        )
        manifest = bundle.manifest.model_copy(update={"inputs": fields})
        with pytest.raises(ExportError, match=r"'A B' and 'A\.B' have the same name in C, A_B"):
            write_c(replace(bundle, manifest=manifest), tmp_path / "c")
        assert not (tmp_path / "c").exists()


def _compile(written: Written) -> None:
    """Check the syntax, with warnings as errors."""
    assert _refusal(written) == ""


def _refusal(written: Written, *options: str, compiler: str = "gcc") -> str:
    """What a compiler says of the syntax, with warnings as errors."""
    command = [compiler, "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-march=native"]
    files = str(written.source), str(written.test)
    return subprocess.run([*command, *options, *files], capture_output=True, text=True, check=False).stderr
