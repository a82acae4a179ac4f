"""The folder of a run: when it is refused, what a run resumes from, and the three calls that `train` makes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from msr_runtime.errors import CheckpointError, InputError
from msr_runtime.meta import LearnerConfig, MetaTrainer, load_checkpoint, open_run, prepare, train
from msr_runtime.meta.training.checkpoint import BEST, LAST
from msr_runtime.meta.training.run import METRICS, Run
from msr_runtime.meta.training.trainer import one_cycle


def metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics."""
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(training, tmp_path_factory) -> Path:
    """The folder of a run that `train` took to its end."""
    folder = tmp_path_factory.mktemp("run") / "finished"
    result = train(training.Plane(), training.config(training.Plane()), folder, progress=False)
    assert (result.run, result.step, result.finished) == (folder, 40, True)
    return folder


def counting(training) -> Any:
    """A family that counts its calls of `sample`."""

    class Counting(training.Plane):
        calls = 0

        def sample(self, *call: Any) -> Any:
            self.calls += 1
            return super().sample(*call)

    return Counting()


def test_a_new_folder_is_not_touched(training, tmp_path) -> None:
    """`open_run` takes a path or a text, writes nothing and does not make the folder."""
    config = training.config(training.Plane())
    for path in (tmp_path / "run", str(tmp_path / "run")):
        assert open_run(path, config) == Run(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, r"holds a run already \(last.safetensors\); resume that run \(--resume\), or choose another folder"),
        ({"resume": True, "shots": 4}, "was trained with other settings than the ones given now"),
        ({"resume": True, "folder": "absent"}, "there is no checkpoint at .*absent"),
    ],
    ids=["another run", "other settings", "nothing to resume"],
)
def test_a_folder_is_refused_before_anything_is_simulated(
    training, finished: Path, changes: dict[str, Any], says: str
) -> None:
    """`train` asks the family for no sample, and leaves every file as it is."""
    family, files = counting(training), {path: path.read_bytes() for path in finished.iterdir()}
    changes = dict(changes)
    folder, resume = finished.parent / changes.pop("folder", "finished"), changes.pop("resume", False)
    with pytest.raises(CheckpointError, match=says):
        train(family, training.config(family, **changes), folder, resume=resume, progress=False)
    assert family.calls == 0
    assert {path: path.read_bytes() for path in finished.iterdir()} == files


def test_a_run_keeps_the_rule_that_it_began_with(training, tmp_path) -> None:
    """One is chosen and written down where none is named. A run by another rule, as before, resumes all the same."""
    family, unnamed = training.Plane(), LearnerConfig(width=4, depth=1, filters=3)
    for rule, steps in (("gauss-newton", 2), ("gradient", 5)):
        named = unnamed if rule == "gauss-newton" else unnamed.model_copy(update={"rule": rule, "inner_steps": steps})
        train(family, training.config(family, learner=named, steps=1), tmp_path / rule, progress=False)
        resumed = training.config(family, learner=unnamed, steps=2)
        assert train(family, resumed, tmp_path / rule, resume=True, progress=False).step == 2
        learner = load_checkpoint(tmp_path / rule / LAST).config.learner
        assert (learner.rule, learner.inner_steps) == (rule, steps)
    asked = training.config(family, learner=unnamed.model_copy(update={"inner_steps": 2}), steps=3)
    with pytest.raises(CheckpointError, match=r"--learner.inner-steps 2 \(the run has 5\)"):
        train(family, asked, tmp_path / "gradient", resume=True, progress=False)


def test_a_run_of_before_resumes_with_a_family_that_says_more_of_its_fields(training, finished: Path) -> None:
    """Kinds and turns change no number. Two kinds that contradict each other are another family."""
    config = training.config(training.Plane())
    (push,) = config.inputs
    said = config.model_copy(update={"inputs": (push.model_copy(update={"kind": "effort"}),)})
    assert open_run(finished, said, resume=True).saved is not None
    assert not said.differences(config)
    assert said.differences(config.model_copy(update={"inputs": (push.model_copy(update={"kind": "velocity"}),)}))


def test_the_three_calls_and_train_give_the_same_checkpoint(training, finished: Path, tmp_path) -> None:
    """Both checkpoints have the same digest, and the metrics have the same rows."""
    family = training.Plane()
    config = training.config(family)
    run = open_run(tmp_path / "run", config)
    prepared = prepare(family, config, saved=run.saved, progress=False)
    result = MetaTrainer(prepared, run, progress=False).train()
    assert (result.step, result.finished) == (40, True)
    for name in (LAST, BEST):
        assert load_checkpoint(run.path / name).digest == load_checkpoint(finished / name).digest
    assert metrics(run.path) == metrics(finished)


def test_a_resumed_run_has_the_state_of_its_last_checkpoint(training, finished: Path) -> None:
    """Weights, normalization, step, best loss and the outer optimizer's state."""
    saved, last = (
        open_run(finished, training.config(training.Plane()), resume=True).saved,
        load_checkpoint(finished / LAST),
    )
    assert saved is not None
    assert (saved.step, saved.best, saved.normalization) == (40, last.best, last.normalization)
    for tensors, expected in ((saved.learner, last.learner.state_dict()), (saved.optimizer, last.optimizer)):
        assert tensors.keys() == expected.keys() > set()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_more_steps_extend_a_run(training, finished: Path, tmp_path) -> None:
    """The outer rate goes on along the longer schedule. A process that was killed before its first checkpoint, when
    `config.json` alone had the new number, resumes as if it had not been.
    """
    family, longer = training.Plane(), training.config(training.Plane(), steps=60)
    folders = [tmp_path / name for name in ("straight", "killed")]
    for folder in folders:
        shutil.copytree(finished, folder)
    Run(folders[1], longer, open_run(finished, None, resume=True).saved).begin()
    assert open_run(folders[1], None, resume=True).config == longer
    for folder, asked in zip(folders, (longer, training.config(family, steps=60)), strict=True):
        assert train(family, asked, folder, resume=True, progress=False).step == 60
    assert load_checkpoint(folders[0] / LAST).digest == load_checkpoint(folders[1] / LAST).digest
    rates = {row["step"]: row["outer_rate"] for row in metrics(folders[0])}
    assert rates[40] < 0.1 * rates[50]
    assert rates[50] == one_cycle(49, 60, longer.settings.outer_rate)
    with pytest.raises(CheckpointError, match=r"--settings.steps 40 \(the run has 60\)"):
        train(family, training.config(family), folders[0], resume=True, progress=False)


def test_an_address_is_no_folder(training, tmp_path, monkeypatch) -> None:
    """Neither a new run nor one that resumes makes a folder called `s3:`."""
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: open_run("s3://bucket/run", training.config(training.Plane())),
        lambda: open_run("s3://bucket/run", None, resume=True),
        lambda: load_checkpoint(Path("s3://bucket/run")),
    ):
        with pytest.raises(InputError, match="'s3://bucket/run' is an address"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_drops_the_rows_after_its_checkpoint(training, finished: Path, tmp_path) -> None:
    """A killed process may have logged more steps than its checkpoint has, and half of one more row."""
    config = training.config(training.Plane())
    saved = open_run(finished, config, resume=True).saved
    assert saved is not None
    rows = [json.dumps({"step": step, "loss": 1.0}) for step in (10, 20, 30)]
    (tmp_path / METRICS).write_text("\n".join([*rows, '{"step": 40, "lo']))
    Run(tmp_path, config, saved._replace(step=20)).begin()
    assert [row["step"] for row in metrics(tmp_path)] == [10, 20]
