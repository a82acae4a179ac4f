"""A run's folder belongs to one process at a time, keeps its settings, and can be resumed from its first moment on."""

import json
from pathlib import Path
from typing import Any

import pytest

from msr_runtime.errors import CheckpointError, InputError
from msr_runtime.meta.training import lock
from msr_runtime.meta.training.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from msr_runtime.meta.training.lock import locked
from msr_runtime.meta.training.run import CONFIG, METRICS, open_run

SHORT: dict[str, Any] = {"steps": 6, "validation_every": 3}


@pytest.fixture(scope="module")
def whole(training, tmp_path_factory) -> Path:
    """A run of six outer steps without a disturbance."""
    folder = tmp_path_factory.mktemp("whole")
    assert training.trainer(folder, **SHORT).train().finished
    return folder


def fail(*_: object) -> None:
    """Stands for the death of the process: nothing after it is written."""
    raise RuntimeError("power is gone")


def test_a_second_training_in_the_folder_is_refused(training, tmp_path, monkeypatch) -> None:
    """While a process trains there, before any work; and a trainer that was made before the other one began."""
    monkeypatch.setattr(lock, "_PATIENCE", 0.1)
    early = training.trainer(tmp_path / "run", **SHORT)
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        for attempt in (lambda: training.trainer(tmp_path / "run", **SHORT), early.train):
            with pytest.raises(
                CheckpointError, match=r"another process trains in folder .*run, and two would overwrite"
            ):
                attempt()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["lock"]
    assert training.trainer(tmp_path / "run", **SHORT).train().finished


def test_a_folder_in_which_another_one_trained_meanwhile_is_refused(training, whole: Path, tmp_path) -> None:
    """Both were opened on an empty folder. The second one would overwrite what the first one left."""
    first, second = (training.trainer(tmp_path, **SHORT) for _ in range(2))
    assert first.train().finished
    with pytest.raises(CheckpointError, match=r"another process has trained in folder .*\(--resume\)"):
        second.train()
    assert load_checkpoint(tmp_path / LAST).digest == load_checkpoint(whole / LAST).digest


def test_a_process_that_died_before_its_first_validation_can_be_resumed(training, whole: Path, tmp_path) -> None:
    """The folder holds a checkpoint of step 0. There is nothing to export yet, and the message says so."""
    trainer = training.trainer(tmp_path, **SHORT)
    trainer._outer_step = fail
    with pytest.raises(RuntimeError, match="power"):
        trainer.train()
    assert load_checkpoint(tmp_path / LAST).step == 0
    with pytest.raises(CheckpointError, match="stopped before its first validation; go on with --resume, or name"):
        load_checkpoint(tmp_path)
    assert training.trainer(tmp_path, resume=True, **SHORT).train().finished
    for name in (LAST, BEST):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert (tmp_path / METRICS).read_bytes() == (whole / METRICS).read_bytes()


def test_an_edited_configuration_is_told(training, whole: Path, tmp_path) -> None:
    """The message names the setting and both values. A file that is gone is written again."""
    text = (whole / CONFIG).read_text()
    stored = json.loads(text)
    config = training.config(training.Plane(), **SHORT)
    edits = {
        json.dumps(stored | {"settings": stored["settings"] | {"shots": 7}}): r"--settings.shots 7 \(the run has 5\)",
        json.dumps(stored | {"settings": stored["settings"] | {"shots": 0}}): "settings.shots: Input should be greater",
        "": "the whole text: Invalid JSON",
    }
    try:
        for edit, says in edits.items():
            (whole / CONFIG).write_text(edit)
            with pytest.raises(CheckpointError, match=rf"config.json was edited after the run began.*{says}"):
                open_run(whole, config, resume=True)
        (whole / CONFIG).unlink()
        assert open_run(whole, config, resume=True).saved is not None
    finally:
        (whole / CONFIG).write_text(text)


def test_checkpoints_of_equal_content_have_equal_bytes(whole: Path, tmp_path) -> None:
    """Also when they are written from what was read."""
    read = load_checkpoint(whole / LAST)
    for _ in range(4):  # safetensors lists the metadata in an order of chance
        save_checkpoint(
            tmp_path / LAST,
            config=read.config,
            learner=read.learner,
            normalization=read.normalization,
            step=read.step,
            best=read.best,
            optimizer=read.optimizer,
        )
        assert (tmp_path / LAST).read_bytes() == (whole / LAST).read_bytes()


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/msr/run"])
def test_a_folder_that_cannot_be_made_is_refused_first(training, tmp_path, monkeypatch, where: str) -> None:
    """The message says which part of the path is in the way."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"run '{where}' cannot be .*name another folder"):
        open_run(where, training.config(training.Plane()))


def test_without_a_terminal_each_validation_writes_a_line(training, tmp_path, capsys) -> None:
    """On stderr, with the validation loss."""
    trainer = training.trainer(tmp_path, **SHORT)
    trainer.progress = True
    trainer.train()
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(",")[0] for line in err.splitlines()] == ["msr: step 3 of 6", "msr: step 6 of 6"]
    assert all(" validation loss 0." in line or " validation loss 1." in line for line in err.splitlines())
