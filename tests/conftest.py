"""What every test shares."""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

# The benchmarks are programs: they find each other because they lie in one folder. Tests use some of their parts.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

# A shell switches Ctrl-C off for its background jobs, and for all that they start. Some tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests run in parallel processes, so one thread each is fastest; without torch the robot's side can still be tested.
with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)

SMALL = {
    "--settings.steps": 20,
    "--settings.validation-every": 20,
    "--settings.training-tasks": 40,
    "--learner.width": 16,
    "--learner.depth": 2,
    "--learner.filters": 8,
}


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function that makes a folder once for all tests: the first process fills it, another one waits.

    It takes the folder's name and a function that fills the empty folder, and returns the folder. Read only.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, filled = base / "once" / name, base / "once" / f"{name}.filled"
        folder.mkdir(parents=True, exist_ok=True)
        with (base / "once" / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not filled.exists():
                fill(folder)
                filled.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def small() -> list[str]:
    """The options that make `msr train` a matter of seconds."""
    numbers = [str(word) for option in SMALL.items() for word in option]
    return [*numbers, "--settings.insist-on-augmentation"]  # its test takes longer than all the rest


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export measures on 40 validation tasks, in place of 200: for tests that compare none of its figures."""
    import msr_export

    monkeypatch.setattr(msr_export, "export_checkpoint", partial(msr_export.export_checkpoint, validation_tasks=40))


@pytest.fixture(scope="session")
def image_file(once: Callable[..., Path]) -> Path:
    """A file for the families `omniglot` and `images`: 36 classes of 8 images, 8 x 8 grey. Read only.

    Pixel (0, 0) of each image is the number of its class, and pixel (0, 1) that of the image in its class. The others
    are a pattern of the class, with noise.
    """
    import numpy as np

    def fill(folder: Path) -> None:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 2, (36, 1, 8, 8)) * 200 + rng.integers(0, 56, (36, 8, 8, 8))
        images[:, :, 0, 0], images[:, :, 0, 1] = np.arange(36)[:, None], np.arange(8)
        number = np.arange(36)
        np.savez(
            folder / "images.npz",
            images=images.astype(np.uint8),
            split=np.repeat(["train", "validation", "test"], 12),
            vinyals_split=number % 3,
            evaluation=number >= 24,
            alphabet=number // 2,
        )

    return once("images", fill) / "images.npz"


@pytest.fixture(scope="session")
def ring_run(once: Callable[..., Path], small: list[str]) -> Path:
    """A run of a small network on ring-nav, trained for a few outer steps, with its `bundle`. Read only."""
    from msr_runtime.cli.command import run

    def fill(folder: Path) -> None:
        assert run(["train", "ring-nav", str(folder), *small]) == 0
        assert run(["export", str(folder), str(folder / "bundle")]) == 0

    return once("ring", fill)


@pytest.fixture(scope="session")
def ring_bundle(ring_run: Path) -> Path:
    """The bundle of this network. Read only."""
    return ring_run / "bundle"


@pytest.fixture(scope="session")
def recursive_bundle(once: Callable[..., Path], small: list[str]) -> Path:
    """The bundle of a small network with the rule `recursive` on ring-nav, trained for a few outer steps. Read only."""
    from msr_runtime.cli.command import run

    def fill(folder: Path) -> None:
        assert run(["train", "ring-nav", str(folder), *small, "--learner.rule", "recursive"]) == 0
        assert run(["export", str(folder), str(folder / "bundle")]) == 0

    return once("recursive", fill) / "bundle"


@pytest.fixture(scope="session")
def compiled(once: Callable[..., Path]) -> Callable[[str, Path], Path]:
    """A function from a name and a bundle to a copy of it with native code, compiled once. Read only."""
    from msr_runtime.bundle.store import Bundle
    from msr_runtime.cli.compile import add_native
    from msr_runtime.inference.native import find_compiler

    if shutil.which("cc") is None:
        pytest.skip("cc is not installed: apt-get install gcc")

    def make(name: str, bundle: Path) -> Path:
        def fill(folder: Path) -> None:
            add_native(Bundle.open(shutil.copytree(bundle, folder / "bundle")), find_compiler("cc"))

        return once(f"{name}-native", fill) / "bundle"

    return make


@pytest.fixture(scope="session")
def native_recursive_bundle(compiled: Callable[[str, Path], Path], recursive_bundle: Path) -> Path:
    """The bundle with the rule `recursive`, with native code. Read only."""
    return compiled("recursive", recursive_bundle)
