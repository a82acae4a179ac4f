"""A small trained run, its bundle, samples and a recording, laid out as the documentation names them."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from msr_envs.ring_nav.family import RingNav
from msr_runtime.cli import run

ROOT = Path(__file__).parents[2]
SMALL = {
    "--settings.steps": 20,
    "--settings.validation-every": 20,
    "--settings.training-tasks": 40,
    "--learner.width": 16,
    "--learner.depth": 2,
    "--learner.filters": 8,
}


@pytest.fixture(scope="session")
def small() -> list[str]:
    """The options that make `msr train` a matter of seconds."""
    numbers = [str(word) for option in SMALL.items() for word in option]
    return [*numbers, "--settings.insist-on-augmentation"]  # its test takes longer than all the rest


@pytest.fixture(scope="session")
def prepared(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/`, `samples.npz`, `flight.mcap` and `examples/`. Copy it before you write into it."""
    folder = tmp_path_factory.mktemp("prepared")
    ring, demo = folder / "runs/ring", folder / "runs/demo"
    assert run(["train", "ring-nav", str(ring), *small]) == 0
    assert run(["export", str(ring), str(ring / "bundle")]) == 0
    shutil.copytree(ring, demo)
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))

    batch = RingNav().sample(np.random.default_rng(0), 1, 10, 20, "test")
    np.savez(folder / "samples.npz", **{name: array[0] for name, array in batch._asdict().items()})
    record = [sys.executable, "examples/record.py", "runs/demo/bundle", "flight.mcap", "500"]
    subprocess.run(record, cwd=folder, check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the prepared folder, which is the current one."""
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture(scope="session")
def bundle(prepared: Path) -> Path:
    """The small bundle. Read only."""
    return prepared / "runs/demo/bundle"
