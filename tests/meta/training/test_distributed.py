"""Real processes, started by torchrun: they compute the numbers of one process, and end together."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from msr_runtime.errors import TrainingError
from msr_runtime.meta.training.checkpoint import BEST, LAST, load_checkpoint
from msr_runtime.meta.training.distributed import ALONE, Processes, processes
from msr_runtime.meta.training.trainer import train

FAMILY = """
import os, signal, sys, time
sys.path.insert(0, {folder!r})
import numpy as np
from conftest import Plane

class Family(Plane):
    what, rank, at = os.environ.get("DISTURB", "nothing in 0 at 0").split()[::2]
    calls = 0

    def sample(self, rng, tasks, shots, queries, split):
        if split == "validation":  # what is augmented after the validation tasks, then once for each outer step
            self.calls = -1
        return super().sample(rng, tasks, shots, queries, split)

    def augment(self, rng, x, y):
        x, y = super().augment(rng, x, y)
        self.calls += 1
        if self.calls == int(self.at) and self.rank == os.environ.get("RANK", self.rank):
            if self.what == "nan":
                return x, np.full_like(y, np.nan)
            if self.what == "sleep":
                time.sleep(15)
            elif self.what != "nothing":
                os.kill(os.getpid(), signal.Signals[self.what])
        return x, y
"""
SETTINGS = {"steps": 30, "tasks-per-step": 5, "shots": 5, "queries": 8, "validation-every": 5, "validation-tasks": 8}
POOL = {"training-tasks": 16, "samples-per-task": 16}
LEARNER = {"width": 8, "depth": 1, "filters": 6, "inner-steps": 2}


@pytest.fixture(scope="module")
def family(training, tmp_path_factory) -> Path:
    """The file of a family that disturbs one process at one outer step, as the environment says."""
    path = tmp_path_factory.mktemp("family") / "disturbed.py"
    path.write_text(FAMILY.format(folder=str(training.folder)))
    return path


def _start(family: Path, run: Path, count: int, *more: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += ["-m", "msr_runtime.cli", "train", f"{family}:Family", str(run), *more]
    if "--resume" not in more:
        options = {f"settings.{name}": value for name, value in (SETTINGS | POOL).items()}
        options |= {f"learner.{name}": value for name, value in LEARNER.items()}
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        command.append("--settings.insist-on-augmentation")
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | environment)


def _train(family: Path, run: Path, count: int, *more: str, **environment: str) -> tuple[int, str, str]:
    """Train in `count` processes. Returns the exit code, stdout and stderr."""
    with _start(family, run, count, *more, **environment) as torchrun:
        said, complained = torchrun.communicate(timeout=120)
    return torchrun.returncode, said, complained


def _alone(family: Path, run: Path, of: Path) -> None:
    """Train or resume in this process alone, with the configuration of the run `of`."""
    spec = importlib.util.spec_from_file_location("disturbed", family)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = load_checkpoint(of / LAST).config
    assert train(module.Family(), config, run, resume=run == of, progress=False).finished


def _rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _assert_same_numbers(run: Path, other: Path) -> None:
    rows, others = _rows(run), _rows(other)
    assert [row["step"] for row in rows] == [row["step"] for row in others] == list(range(5, 31, 5))
    for name in rows[0]:
        numbers = [row[name] for row in rows]
        np.testing.assert_allclose(numbers, [row[name] for row in others], rtol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def trio(family: Path, tmp_path_factory) -> Path:
    """A complete run of three processes."""
    run = tmp_path_factory.mktemp("trio") / "run"
    code, said, complained = _train(family, run, 3)
    assert code == 0, complained
    assert said.count("30 steps in") == 1
    return run


@pytest.fixture(scope="module")
def single(family: Path, trio: Path, tmp_path_factory) -> Path:
    """The same run in one process."""
    run = tmp_path_factory.mktemp("single")
    _alone(family, run, trio)
    return run


def test_three_processes_compute_what_one_does(trio: Path, single: Path) -> None:
    """With shares of one, two and two tasks, all metrics are equal to 1e-5. Only one process writes.

    Two processes, with shares of two and three tasks, are compared in the tests below.
    """
    _assert_same_numbers(trio, single)
    assert len(list(trio.glob("events.out.tfevents*"))) == 1
    assert {BEST, LAST, "config.json", "metrics.jsonl"} < {path.name for path in trio.iterdir()}


def test_a_gradient_that_is_not_finite_in_one_process_is_skipped_in_all(family: Path, tmp_path, monkeypatch) -> None:
    """If any process had taken the step, or kept its inner rates, later metrics would differ from one process's."""
    monkeypatch.setenv("DISTURB", "nan in 1 at 10")
    code, _, complained = _train(family, tmp_path / "run", 2)
    assert code == 0, complained
    monkeypatch.setenv("DISTURB", "nan in 0 at 10")
    (tmp_path / "single").mkdir()
    _alone(family, tmp_path / "single", tmp_path / "run")
    _assert_same_numbers(tmp_path / "run", tmp_path / "single")
    assert [np.isnan(row["loss"]) for row in _rows(tmp_path / "run")] == [False, True, *[False] * 4]


@pytest.mark.parametrize("number", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    family: Path, single: Path, tmp_path, number: str
) -> None:
    """The run resumes from that step with another number of processes."""
    run = tmp_path / "run"
    code, _, complained = _train(family, run, 2, DISTURB=f"{number} in 1 at 13")
    assert code != 0
    assert complained.count("interrupted after step 13 of 30") == 1
    assert load_checkpoint(run / LAST).step == 13
    if number == "SIGINT":
        _alone(family, run, run)
    else:
        code, _, complained = _train(family, run, 3, "--resume")
        assert code == 0, complained
    _assert_same_numbers(run, single)


def test_ctrl_c_in_torchrun_leaves_a_checkpoint(family: Path, tmp_path) -> None:
    """A person stops torchrun like this. It passes the signal on and waits."""
    run = tmp_path / "run"
    with _start(family, run, 2, "--settings.steps", str(10**6)) as torchrun:
        while torchrun.poll() is None and not (run / LAST).exists():
            time.sleep(0.05)
        torchrun.send_signal(signal.SIGINT)
        _, complained = torchrun.communicate(timeout=60)
    step = load_checkpoint(run / LAST).step
    assert complained.count(f"interrupted after step {step} of") == 1, complained


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_others_and_the_last_checkpoint_resumes(
    family: Path, single: Path, tmp_path, victim: int
) -> None:
    """Killed in step 13, the run resumes from step 10, and no row of the metrics is lost."""
    run = tmp_path / "run"
    code, _, complained = _train(family, run, 2, DISTURB=f"SIGKILL in {victim} at 13")
    assert code != 0
    assert complained.count(f"msr: process {2 - victim} of 2 lost the others: one has ended") == 1, complained
    assert load_checkpoint(run / LAST).step == 10
    _alone(family, run, run)
    _assert_same_numbers(run, single)


@pytest.mark.slow
def test_a_process_that_hangs_is_given_up_after_the_timeout(family: Path, tmp_path) -> None:
    """The other process ends after the timeout, although the hanging one would come back later."""
    code, _, complained = _train(family, tmp_path / "run", 2, DISTURB="sleep in 1 at 13", MSR_TIMEOUT="8")
    assert code != 0
    assert "msr: process 1 of 2 lost the others: one has ended, or did not answer for 8 s (MSR_TIMEOUT)" in complained
    assert load_checkpoint(tmp_path / "run" / LAST).step == 10


def test_what_is_refused_is_said_once(family: Path, trio: Path) -> None:
    """The first process prints the error. The others end without a message."""
    code, _, complained = _train(family, trio, 2)
    assert code != 0
    assert complained.count("msr: ") == complained.count("holds a run already") == 1, complained


def test_shares_are_the_whole_batch_and_nearly_equal() -> None:
    """Each task is in one share. Fewer tasks than processes are refused."""
    for tasks, size in ((4, 2), (5, 2), (16, 5), (7, 7)):
        shares = [list(range(tasks))[Processes(rank, size).share(tasks)] for rank in range(size)]
        assert [task for share in shares for task in share] == list(range(tasks))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(TrainingError, match=r"tasks_per_step is 2, but 3 processes"):
        Processes(0, 3).share(2)


def test_a_process_alone_changes_nothing(monkeypatch) -> None:
    """Without torchrun, or with a single process, nothing is joined and nothing is communicated."""
    for size, started in (("2", None), ("1", "by torchrun")):
        monkeypatch.setenv("WORLD_SIZE", size)
        if started:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", started)
        with processes() as joined:
            assert joined is ALONE
    assert not torch.distributed.is_initialized()
    loss, gradients = torch.tensor(1.0), {"v": torch.ones(2)}
    assert ALONE.average(loss, gradients, 4) == (loss, gradients)
    assert ALONE.share(4) == slice(0, 4)
    assert (ALONE.agree(True), ALONE.agree(False)) == (True, False)


@pytest.mark.parametrize("written", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_that_is_no_time_is_refused(monkeypatch, written: str) -> None:
    """The message names the variable and its value. No process is joined before."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "2")
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "MSR_TIMEOUT": written}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=f"MSR_TIMEOUT is '{written}'"), processes():
        pass
