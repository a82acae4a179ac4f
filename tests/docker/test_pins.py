"""The images' pinned versions and the packages that pyproject.toml asks for."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("cpu", "gpu", "serve", "log", "sign", "train", "data")
TRAINING = {
    "torch",
    "onnx",
    "onnxscript",
    "gymnasium",
    "mujoco",
    "matplotlib",
    "tensorboard",
    "rich",
    "pyarrow",
    "pyyaml",
}


def requirements(*extras: str) -> list[Requirement]:
    """What the Dockerfile's stages hand to pip for these extras."""
    printed = subprocess.run(
        [sys.executable, "docker/requirements.py", *extras], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [Requirement(line) for line in printed.stdout.splitlines()]


@pytest.fixture(scope="module")
def pins() -> dict[str, Requirement]:
    """The lines of docker/constraints.txt by name."""
    lines = (ROOT / "docker/constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned: dict[str, Requirement] = {canonicalize_name(each.name): each for each in found}
    assert len(pinned) == len(found), "a package is pinned twice"
    return pinned


def test_every_pin_is_one_version(pins: dict[str, Requirement]) -> None:
    """Each line names one exact version and no address."""
    for name, pin in pins.items():
        assert [each.operator for each in pin.specifier] == ["=="], name
        assert "*" not in str(pin.specifier), name
        assert pin.url is None, name


@pytest.mark.parametrize("extra", EXTRAS)
def test_pins_lie_within_the_projects_ranges(pins: dict[str, Requirement], extra: str) -> None:
    """Every package that an image asks for is pinned, to a version that pyproject.toml accepts."""
    asked = requirements(extra)
    assert len(asked) > len(PROJECT["dependencies"]) > 0
    for each in asked:
        (pin,) = pins[canonicalize_name(each.name)].specifier
        assert each.specifier.contains(pin.version), f"{pin} is not within {each}"


@pytest.mark.parametrize("tool", ["hatchling", "cyclonedx-bom"])
def test_the_tools_of_the_build_are_pinned(pins: dict[str, Requirement], tool: str) -> None:
    """What builds the wheel and what lists the packages are of one version, too."""
    assert tool in pins


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_runtime_asks_for_one_onnxruntime_and_no_training_package(device: str) -> None:
    """The robot's requirements have the ONNX Runtime of its device, not the other one, and nothing of training."""
    names = {canonicalize_name(each.name) for each in requirements(device, "serve", "log", "sign")}
    assert names & {"onnxruntime", "onnxruntime-gpu"} == {"onnxruntime" if device == "cpu" else "onnxruntime-gpu"}
    assert not names & TRAINING
