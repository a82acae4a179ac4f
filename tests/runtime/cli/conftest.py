"""Fixtures of the command's tests: the command itself, a small trained run, and interpreters that lack packages."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime.cli import main

FAMILY = '''
"""A planar push with an unknown gain: symmetric under quarter turns."""

import numpy as np
from msr_runtime.task import ClosedLoop, Field, Group, TaskBatch

QUARTERS = np.stack([np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), n) for n in range(4)])


class Push:
    name = "push"
    inputs = (Field(name="velocity", shape=(2,), unit="m/s", low=-4.0, high=4.0),)
    outputs = (Field(name="force", shape=(2,), unit="N", low=-8.0, high=8.0),)
    loss = "mse"
    query_sets = ("all",)
    rate_hz = 50.0

    def sample(self, rng, tasks, shots, queries, split):
        low, high = {"train": (1.0, 2.0), "validation": (0.5, 0.75), "test": (0.75, 1.0)}[split]
        x = rng.normal(size=(tasks, shots + queries, 2))
        y = rng.uniform(low, high, (tasks, 1, 1)) * x
        x, y = x.astype(np.float32), y.astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng, x, y):
        turn = QUARTERS[rng.integers(4, size=x.shape[:-1])].astype(np.float32)
        return np.einsum("...ij,...j->...i", turn, x), np.einsum("...ij,...j->...i", turn, y)

    def group(self):
        return Group("C4", QUARTERS, QUARTERS)

    def evaluate(self, adapt, rng, tasks, split):
        batch = self.sample(rng, tasks, 5, 8, split)
        errors = np.zeros(tasks)
        if adapt is not None:
            for task in range(tasks):
                predict = adapt(batch.support_x[task], batch.support_y[task])
                errors[task] = np.abs(predict(batch.query_x[task]) - batch.query_y[task]).mean()
        return ClosedLoop("force missed", "N", False, errors)
'''
TINY = [
    *("--settings.steps", "20", "--settings.training-tasks", "16", "--settings.samples-per-task", "32"),
    *("--settings.validation-every", "10", "--learner.width", "8", "--learner.depth", "1", "--learner.filters", "4"),
    "--settings.insist-on-augmentation",  # its test takes longer than all the rest
]
TRAINING = {"torch", "gymnasium", "mujoco", "onnx", "onnxscript", "rich", "tensorboard"}
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Missing())
from msr_runtime.cli import main
main()
"""


def _msr(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="session")
def msr() -> Callable[..., int]:
    """A function that runs the command in this process and returns its exit code."""
    return _msr


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """A function that returns the one line which a refused command wrote, on stderr only."""

    def line() -> str:
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("msr: ")
        assert err.count("\n") == 1
        return err

    return line


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Options that make training a matter of a second."""
    return TINY


@pytest.fixture(scope="session")
def trained(once: Callable[..., Path]) -> Path:
    """A folder with the file of a task family, a run of 20 steps on it and its bundle. Read only."""

    def fill(folder: Path) -> None:
        (folder / "push.py").write_text(FAMILY, encoding="utf-8")
        assert _msr("train", f"{folder / 'push.py'}:Push", folder / "run", *TINY) == 0
        family = f"{folder / 'push.py'}:Push"
        # All of U is kept, so that run and bundle can be compared.
        assert _msr("export", folder / "run", folder / "bundle", "--family", family, "--no-structure") == 0

    return once("push", fill)


@pytest.fixture
def no_doubts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what `msr train` warns of in a family that keeps the contract: it has tests of its own."""
    monkeypatch.setattr("msr_runtime.cli.train._doubt_tasks", lambda *_: None)


@pytest.fixture
def samples() -> dict[str, np.ndarray]:
    """A support set and a query set for the linear bundle."""
    rng = np.random.default_rng(0)
    shapes = {"support_x": (5, 3), "support_y": (5, 2), "query_x": (4, 3), "query_y": (4, 2)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def start_without() -> Callable[..., subprocess.Popen[str]]:
    """A function that starts the command in an interpreter which cannot import some packages.

    By default these are the training packages, as on a robot. Further keywords are environment variables.
    """

    def start(
        *arguments: object, missing: set[str] = TRAINING, stdout: int = subprocess.PIPE, **environment: str
    ) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if name != "MSR_TOKEN"}
        return subprocess.Popen(
            [sys.executable, "-c", WITHOUT.format(missing=missing), *map(str, arguments)],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env=kept | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        )

    return start


@pytest.fixture(scope="session")
def run_without(start_without: Callable[..., subprocess.Popen[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`start_without`, but wait for the end of the command."""

    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        with start_without(*arguments, **options) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run
