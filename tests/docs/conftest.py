"""A small trained run, its bundle, samples and a recording, laid out as the documentation names them."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from msr_envs.ring_nav.family import RingNav

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def prepared(ring_run: Path, recursive_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/`, `samples.npz`, `flight.mcap` and `examples/`. Copy it before you write into it."""
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("ring", "demo"):
        shutil.copytree(ring_run, folder / "runs" / name)
    shutil.copytree(recursive_bundle.parent, folder / "runs" / "by-sample")
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
def bundle(ring_run: Path) -> Path:
    """The small bundle. Read only."""
    return ring_run / "bundle"
