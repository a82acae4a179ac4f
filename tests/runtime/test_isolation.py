"""The robot's package in separate environments: with ONNX Runtime, without it, and with both distributions of it."""

import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TRAINING = ("torch", "onnx", "onnxscript", "gymnasium", "mujoco", "matplotlib", "tensorboard")
ROBOT = """
import sys
import numpy as np
from msr_runtime import AdaptiveModel

bundle, folder, engine = sys.argv[1:]
data = {name: array.astype(np.float32) for name, array in np.load(f"{folder}/in.npz").items()}
model = AdaptiveModel.load(bundle, engine=engine)
assert model.adapt(data["support_x"], data["support_y"], steps=3).accepted
np.save(f"{folder}/out.npy", model.predict(data["x"]))
"""


LOAD = "import sys; from msr_runtime import AdaptiveModel; AdaptiveModel.load(sys.argv[1])"
_CAPTURED: dict[str, Any] = {"capture_output": True, "text": True}


class Environment:
    """A virtual environment with the project's wheel. It shares no package with the environment of the tests."""

    def __init__(self, folder: Path, wheel: Path, requirements: list[str]) -> None:
        """Make the environment in `folder`. Skip the test if no package index provides the `requirements`."""
        self.folder = folder
        venv.create(folder, with_pip=False)
        # Not compiled: most of what is installed is never imported.
        fetched = self.pip("install", "-q", "--no-compile", "--retries", "1", *requirements)
        if fetched.returncode:
            pytest.skip(f"no package index that has {', '.join(requirements)}: {fetched.stderr.strip()[-200:]}")
        # Without an index, a dependency that pyproject.toml forgets is missing here too.
        installed = self.pip("install", "-q", "--no-compile", "--no-index", "--no-deps", str(wheel))
        assert installed.returncode == 0, installed.stderr

    def pip(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the pip of the tests on the environment, which has none of its own."""
        command = [sys.executable, "-m", "pip", "--python", self.folder / "bin" / "python", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env={**os.environ, "PYTHONPATH": ""}, **_CAPTURED, timeout=300, check=False
        )

    def python(self, *arguments: str, **environment: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python in its folder, with no variables but PATH and `environment`."""
        variables = {"PATH": os.environ["PATH"]} | {name: str(value) for name, value in environment.items()}
        command = [self.folder / "bin" / "python", *arguments]
        return subprocess.run(command, cwd=self.folder, env=variables, **_CAPTURED, timeout=300, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this source tree with the installed build backend."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    """The environment that `pip install "msr-runtime[cpu]"` makes."""
    requirements = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["cpu"]
    return Environment(tmp_path_factory.mktemp("robot"), wheel, requirements)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    """The environment that `pip install msr-runtime` makes. It has no ONNX Runtime."""
    return Environment(tmp_path_factory.mktemp("bare"), wheel, PROJECT["dependencies"])


def test_robot_has_no_training_package(robot: Environment) -> None:
    """The extra `cpu` installs the runtime with all its requirements, and no training package."""
    search = f"import importlib.util as u; print([n for n in {TRAINING!r} if u.find_spec(n)])"
    assert robot.python("-c", search).stdout.strip() == "[]"
    checked = robot.pip("check")
    assert checked.returncode == 0, checked.stdout


def require_adaptation(environment: Environment, bundle: Path, engine: str, linear: Any, folder: Path) -> None:
    """Adapt a bundle and predict in an environment: as the numpy reference does, and without a file under HOME."""
    rng = np.random.default_rng(0)
    support_x, support_y, x = rng.standard_normal((5, 3)), rng.standard_normal((5, 2)), rng.standard_normal((4, 3))
    np.savez(folder / "in.npz", support_x=support_x, support_y=support_y, x=x)
    home = folder / "home"
    home.mkdir()
    ran = environment.python("-W", "error", "-c", ROBOT, str(bundle), str(folder), engine, HOME=home)
    assert ran.returncode == 0, ran.stderr
    predicted = linear.predict(linear.adapt(support_x, support_y, 3), x)
    np.testing.assert_allclose(np.load(folder / "out.npy"), predicted, rtol=1e-4, atol=1e-5)
    assert list(home.rglob("*")) == []


def test_robot_adapts_and_leaves_nothing_at_home(
    robot: Environment, bundle_path: Path, linear: Any, tmp_path: Path
) -> None:
    """ONNX Runtime's telemetry writes no file."""
    require_adaptation(robot, bundle_path, "onnx", linear, tmp_path)


def test_native_code_runs_without_onnxruntime(
    bare: Environment, bundle_path: Path, compiled: Callable[[str, Path], Path], linear: Any, tmp_path: Path
) -> None:
    """A robot with native code needs neither of the extras `cpu` and `gpu`."""
    require_adaptation(bare, compiled("linear", bundle_path), "native", linear, tmp_path)


def test_load_without_onnxruntime_names_the_extras(bare: Environment, bundle_path: Path) -> None:
    """Without ONNX Runtime, the error names the two extras to choose from."""
    loaded = bare.python("-c", LOAD, str(bundle_path))
    assert loaded.returncode == 1
    last = loaded.stderr.strip().splitlines()[-1]
    assert last.startswith(("ImportError: ", "ModuleNotFoundError: "))
    assert 'pip install "msr-runtime[cpu]"' in last
    assert "[gpu]" in last


def test_what_needs_no_network_works_without_onnxruntime(bare: Environment, bundle_path: Path) -> None:
    """Bundles are opened and commands are listed; a command that runs a network says in one line what to install."""
    opened = bare.python("-c", f"from msr_runtime import Bundle; print(Bundle.open({str(bundle_path)!r}).digest)")
    assert opened.returncode == 0, opened.stderr
    listed = bare.python("-m", "msr_runtime.cli", "--help")
    assert (listed.returncode, listed.stdout[:10]) == (0, "usage: msr")
    refused = bare.python("-m", "msr_runtime.cli", "bench", str(bundle_path))
    assert refused.returncode == 2
    assert refused.stderr.startswith("msr: ")
    assert 'pip install "msr-runtime[cpu]"' in refused.stderr


def test_both_onnxruntimes_are_refused(robot: Environment, bundle_path: Path, tmp_path: Path) -> None:
    """ONNX Runtime for CPU and for GPU overwrite each other in one environment, so a load refuses both together.

    The test adds only the metadata of the second distribution, as pip would write it.
    """
    metadata = tmp_path / "onnxruntime_gpu-1.23.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.23.0\n", encoding="utf-8")
    loaded = robot.python("-c", LOAD, str(bundle_path), PYTHONPATH=tmp_path)
    assert loaded.returncode == 1
    last = loaded.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "onnxruntime-gpu" in last
    assert "uninstall both" in last


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_an_error_that_says_what_is_missing(
    tmp_path_factory: pytest.TempPathFactory, wheel: Path, bundle_path: Path
) -> None:
    """The GPU build without CUDA's libraries lists CUDA and TensorRT, but a request for them is an error."""
    requirements = [*PROJECT["dependencies"], "onnxruntime-gpu>=1.23"]
    gpu = Environment(tmp_path_factory.mktemp("gpu"), wheel, requirements)
    code = f"""if True:
        from msr_runtime import AdaptiveModel, ProviderError
        AdaptiveModel.load({str(bundle_path)!r})
        for providers in (["CUDA"], ["CUDA", "CPU"], ["Tensorrt"], ["Tensorrt", "CUDA", "CPU"]):
            try:
                AdaptiveModel.load({str(bundle_path)!r}, [f"{{name}}ExecutionProvider" for name in providers])
            except ProviderError as error:
                print(error)
    """
    done = gpu.python("-W", "error", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line, name in zip(lines, ("CUDA", "CUDA", "Tensorrt", "Tensorrt"), strict=True):
        assert line.startswith(f"provider '{name}ExecutionProvider' was asked for but does not start here (lib")
        assert 'pip install "msr-runtime[gpu]"' in line
        assert ("libnvinfer" in line) == (name == "Tensorrt")
    told = gpu.python("-m", "msr_runtime.cli", "info")
    assert (told.returncode, told.stderr) == (0, "")
    assert "onnxruntime-gpu" in told.stdout
    assert told.stdout.count("does not start (lib") == 2
