"""The wheel and the sdist hold what they should, and the wheel works where it is installed. Nothing is downloaded."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("msr_runtime", "msr_envs", "msr_export", "msr_c")
PUBLIC = """
import importlib
from importlib.metadata import metadata
for package in ("msr_runtime", "msr_runtime.meta", "msr_envs", "msr_export", "msr_c"):
    module = importlib.import_module(package)
    print(package, module.__file__)
    for name in getattr(module, "__all__", ()):
        getattr(module, name)
assert metadata("msr-runtime")["License-Expression"] == "Apache-2.0"
"""


def build(source: Path, target: str, folder: Path) -> Path:
    """Build a wheel or an sdist of `source` with hatchling, which is installed, and return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the working tree."""
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The sdist of the working tree."""
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


def contents(wheel: Path) -> dict[str, bytes]:
    """File name to bytes, without the list of digests, which follows from the rest."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_the_wheel_holds_the_packages_the_licence_and_their_types(wheel) -> None:
    names = contents(wheel).keys()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if "tests" in Path(name).parts or "__pycache__" in name]
    code = [path.relative_to(ROOT / "msr_runtime") for path in (ROOT / "msr_runtime").rglob("*.py")]
    assert {f"msr_runtime/{path}" for path in code} <= names


def test_the_sdist_holds_what_the_wheel_is_built_from_and_no_tests(sdist) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "msr_runtime/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/", "runs/"))]


def test_the_sdist_builds_the_same_wheel(sdist, wheel, tmp_path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert contents(build(source, "wheel", tmp_path / "dist")) == contents(wheel)


def test_the_wheel_works_where_it_is_installed(wheel, tmp_path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    site = Path(
        sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")})
    )
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=120)
    # Dependencies come from this environment. Python does not run the .pth files of a folder that a .pth file adds,
    # so the working tree, which is installed here as editable, is not importable there.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    imported = subprocess.run(
        [str(python), "-c", PUBLIC], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120
    )
    assert [line.split()[1].startswith(str(site)) for line in imported.stdout.splitlines()] == [True] * 5
    helped = subprocess.run(
        [str(tmp_path / "venv/bin/msr"), "--help"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "msr COMMAND" in helped.stdout
