"""`msr train`: what it says when it is stopped early, and options that reach the run."""

import json
import shutil
from pathlib import Path

import pytest

from msr_runtime.cli import train as command


@pytest.mark.parametrize("resume", [False, True])
def test_ctrl_c_before_the_first_step(trained, tmp_path, monkeypatch, refusal, msr, tiny, resume: bool) -> None:
    """One sentence says that the folder is as it was, and what to do."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "prepare", interrupt)
    run, more = tmp_path / "run", tiny
    if resume:
        run, more = trained / "run", ["--resume"]
        opened = command.open_run
        monkeypatch.setattr(command, "open_run", lambda *a, **k: _unfinished(opened(*a, **k)))
    before = {path: path.read_bytes() for path in run.rglob("*")}
    assert msr("train", f"{trained / 'push.py'}:Push", run, *more) == 130
    assert f"interrupted before the first step: {run} is as it was; give the same command again" in refusal()
    assert {path: path.read_bytes() for path in run.rglob("*")} == before


def test_more_steps_extend_a_run(trained, tmp_path, msr, capsys) -> None:
    """Its other settings stay, its rows stay, and so do its steps in the next `--resume`."""
    run, family = tmp_path / "run", f"{trained / 'push.py'}:Push"
    shutil.copytree(trained / "run", run)
    rows = (run / "metrics.jsonl").read_text()
    assert msr("train", family, run, "--resume", "--settings.steps", 30) == 0
    assert "30 steps in " in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_text().startswith(rows)
    stored = json.loads((run / "config.json").read_text())["settings"]
    assert (stored["steps"], stored["training_tasks"], stored["validation_every"]) == (30, 16, 10)
    assert msr("train", family, run, "--resume") == 0
    assert "is complete: it has taken all its 30 steps" in capsys.readouterr().out


def test_resume_auto_begins_or_goes_on(trained, tmp_path, msr, tiny, capsys) -> None:
    """One command, given twice: the second time the run is there, and complete."""
    asked = ["train", f"{trained / 'push.py'}:Push", tmp_path / "run", *tiny, "--settings.steps", 3]
    for options in (["--resume", "auto"], ["--resume=auto"]):
        assert msr(*asked, *options) == 0
    assert "is complete: it has taken all its 3 steps" in capsys.readouterr().out
    assert msr("train", "--resume", *asked[1:3]) == 0  # before the positional arguments too
    assert "is complete" in capsys.readouterr().out


def test_a_network_that_no_memory_holds_is_refused_in_one_sentence(tmp_path, msr, tiny, refusal) -> None:
    """Its weight between two layers would have 1.4e14 bytes."""
    assert msr("train", "rank1", tmp_path / "run", *tiny, "--learner.width", 6_000_000, "--learner.depth", 2) == 2
    assert "`msr train` needs more memory than there is" in (said := refusal())
    assert "--learner.width" in said


@pytest.mark.parametrize("resume", [["--resume"], ["--resume", "auto"]])
def test_a_run_does_not_go_on_with_another_method(tmp_path, msr, tiny, refusal, capsys, resume) -> None:
    """The default method, too, is refused if it is named; if it is not, the run's own goes on."""
    run = tmp_path / "run"
    options = [*tiny[:10], "--settings.steps", 3]
    assert msr("train", "rank1", run, "--method", "maml", *options) == 0
    capsys.readouterr()
    assert msr("train", "rank1", run, *resume, "--method", "msr") == 2
    assert "other settings than the ones given now: --method msr (the run has maml); give --resume alone" in refusal()
    assert msr("train", "rank1", run, *resume) == 0


def _unfinished(run):  # noqa: ANN202
    return run._replace(saved=run.saved._replace(step=10))


def test_noise_a_range_of_shots_and_widths_reach_the_run(trained, tmp_path, msr, tiny, capsys) -> None:
    """The run's folder holds them, and `--resume` alone keeps them."""
    run = tmp_path / "run"
    noise = ["--settings.noise", 0.3, "--settings.outliers", 0.1, "--settings.fewest-shots", 2, "--settings.shots", 5]
    shape = ["--learner.width", 5, 6, "--learner.depth", 2]
    assert msr("train", f"{trained / 'push.py'}:Push", run, *tiny, *noise, *shape, "--settings.steps", 3) == 0
    stored = json.loads(Path(run / "config.json").read_text())
    kept = {name: stored["settings"][name] for name in ("noise", "outliers", "outlier_size", "fewest_shots", "shots")}
    assert kept == {"noise": 0.3, "outliers": 0.1, "outlier_size": 10.0, "fewest_shots": 2, "shots": 5}
    assert stored["learner"]["width"] == [5, 6]
    assert msr("train", f"{trained / 'push.py'}:Push", run, "--resume") == 0
    assert "is complete: it has taken all its 3 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--method", "maml", "--learner.filters", "8"], "option filters, but it is set to 8: the network has no symm"),
        (
            ["--method", "anil", "--learner.context", "8"],
            "option context, but it is set to 8: the network 'mlp' has no",
        ),
        (
            ["--learner.inner-rate", "0.2"],
            "the rule 'gauss-newton' has no inner rates, as 'gradient' has (--learner.rule",
        ),
        (["--learner.terms", "2"], "option terms, but it is set to 2: the form 'full' has no terms"),
        (["--learner.rule", "gradient", "--learner.damping", "0.1"], "0.1: the rule 'gradient' has no damping"),
        (
            ["--method", "no-adaptation", "--settings.noise", "0.3"],
            "option noise, but it is set to 0.3: nothing adapts",
        ),
        (["--settings.outlier-size", "3"], "leave it at 10.0 (--settings.outlier-size), or choose what uses it"),
    ],
)
def test_an_option_that_nothing_uses_is_refused(options, says, tmp_path, msr, refusal) -> None:
    """By name, before a folder is made or a task is simulated."""
    assert msr("train", "rank1", tmp_path / "run", *options) == 2
    assert says in refusal()
    assert not (tmp_path / "run" / "config.json").exists()


def test_info_says_what_a_bundle_was_trained_with(trained, msr, capsys) -> None:
    """The settings of the run reach the bundle."""
    assert msr("info", trained / "bundle") == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert rows["trained for"].strip() == "10 shots, 2 inner steps"
    assert rows["trained with"].strip() == "clean samples, augmented queries"


def test_a_filter_may_have_no_gate(trained, tmp_path, msr, tiny) -> None:
    """`None` stands for no number where a number is the default."""
    options = [*tiny, "--learner.rule", "recursive", "--learner.gate", "None", "--settings.steps", 1]
    assert msr("train", f"{trained / 'push.py'}:Push", tmp_path / "run", *options) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["learner"]["gate"] is None
