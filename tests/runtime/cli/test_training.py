"""`msr train` and `msr evaluate` as a user runs them; the fixture `trained` runs `msr export`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from msr_envs.recorded import Recorded
from msr_runtime.cli import evaluate
from msr_runtime.cli.families import family_of, named_family
from msr_runtime.errors import FamilyError
from msr_runtime.meta.evaluation.scores import Scores
from msr_runtime.meta.training.streams import stream
from msr_runtime.task import TaskFamily


def _nothing(family: TaskFamily, methods: Iterable[str]) -> dict[str, Scores]:
    """Scores of one task for each method."""
    scores = Scores({name: np.ones(1) for name in family.query_sets}, np.ones(1), np.ones(1), {})
    return dict.fromkeys(methods, scores)


class TestTrain:
    def test_resume_takes_the_runs_own_settings(self, trained, tmp_path, capsys, refusal, msr) -> None:
        """`--resume` alone continues with the settings of the run; other settings are refused."""
        run, family = tmp_path / "run", f"{trained / 'push.py'}:Push"
        shutil.copytree(trained / "run", run)
        assert msr("train", family, run, "--resume") == 0
        assert "is complete: it has taken all its 20 steps" in capsys.readouterr().out
        others = ["--settings.steps", "10", "--settings.training-tasks", "1000", "--learner.width", "8"]
        assert msr("train", family, run, "--resume", *others, "--settings.no-augment") == 2
        said = refusal()
        assert "--settings.steps 10 (the run has 20), --settings.training-tasks 1000 (the run has 16), --set" in said
        assert "--settings.augment False (the run has True); give --resume alone" in said
        assert "width" not in said  # it is the run's own
        assert msr("train", family, run) == 2
        assert "holds a run already" in refusal()

    def test_interrupted(self, trained, tmp_path, tiny) -> None:
        """Ctrl-C leaves a checkpoint, prints the command that continues, and exits with 130."""
        run = tmp_path / "run"
        start = [sys.executable, "-c", "from msr_runtime.cli import main; main()"]
        asked = ["train", f"{trained / 'push.py'}:Push", str(run), *tiny, "--settings.steps", "100000"]
        process = subprocess.Popen(
            [*start, *asked],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        ended = time.monotonic() + 600  # a busy machine may take minutes to the first checkpoint
        while not (run / "last.safetensors").exists() and process.poll() is None and time.monotonic() < ended:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=600)
        assert process.returncode == 130, err
        assert "--resume" in err
        assert (run / "last.safetensors").exists()

    @pytest.mark.parametrize("where", ["file", "file/below", "/proc/msr/run"])
    def test_a_run_that_cannot_be_a_folder(self, where, tmp_path, monkeypatch, refusal, msr) -> None:
        """It is refused before any work, in one sentence that says why."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").touch()
        assert msr("train", "rank1", where) == 2
        said = refusal()
        assert f"run '{where}' cannot be " in said
        assert "name another folder" in said
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestFamilies:
    @pytest.mark.parametrize("source", ["side_effect:Family", "side_effect.py:Family"])
    def test_code_that_a_file_names_is_not_imported(self, source, tmp_path, monkeypatch) -> None:
        """Neither a module of the working folder nor a file, also if it lies there."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "side_effect.py").write_text("open('ran', 'w').close()\nFamily = None\n")
        with pytest.raises(FamilyError, match=f"'model' names the family '{source}'.*--family"):
            family_of(Path("model"), None, source)
        assert not (tmp_path / "ran").exists()
        with pytest.raises(FamilyError):
            family_of(Path("model"), source, "ring-nav")  # the user's own word runs it
        assert (tmp_path / "ran").exists()

    def test_a_registered_family_is_found_by_its_name(self, trained, tmp_path, monkeypatch) -> None:
        """An installed package registers it, and a module of the same name in the working folder is not taken."""
        installed, working = tmp_path / "site", tmp_path / "working"
        about = installed / "pusher-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: pusher\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(
            "[msr.families]\npush-1 = pusher_family:Push\nbroken-1 = pusher_absent:Push\n"
        )
        (installed / "pusher_family.py").write_text((trained / "push.py").read_text())
        working.mkdir()
        (working / "pusher_family.py").write_text("raise AssertionError\n")
        monkeypatch.syspath_prepend(installed)
        monkeypatch.chdir(working)
        assert family_of(Path("model"), None, "push-1").name == "push"
        assert named_family("push-1").name == "push"
        with pytest.raises(FamilyError, match="registered as pusher_absent:Push, which could not be imported"):
            family_of(Path("model"), None, "broken-1")

    @pytest.mark.parametrize("source", ["data/drive.npz", "a\0.npz", "data/logs.yaml"])
    def test_a_path_that_is_not_found_names_the_working_folder(self, source, tmp_path, monkeypatch) -> None:
        """A run that was trained from another folder names its recorded data from there."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FamilyError, match=f"working folder, {tmp_path}, and from the folders that hold"):
            family_of(Path("run"), None, source)


class TestEvaluate:
    def test_bundle_and_run_score_alike(self, trained, tmp_path, capsys, msr) -> None:
        """A bundle and its run get equal errors on equal tasks, also in the closed loop and for the reference."""
        common = ("--tasks", "8", "--closed-loop-tasks", "3", "--json")
        family = f"{trained / 'push.py'}:Push"
        assert msr("evaluate", trained / "run", "--family", family, *common, tmp_path / "run.json") == 0
        assert msr("evaluate", trained / "bundle", "--family", family, *common, tmp_path / "bundle.json") == 0
        run, bundle = (json.loads((tmp_path / f"{name}.json").read_text())[0] for name in ("run", "bundle"))
        names = [name for name, value in run.items() if isinstance(value, dict)]
        errors = ["error all", "error all over variance", "error orbit"]
        floors = ["no adaptation", "mean of the support", "ridge on x", "ridge on x, mirrored"]
        assert names == [
            *errors,
            "equivariance error",
            "force missed [N], adapted",
            "force missed [N], no adaptation",
            "force missed [N], reference",
            *(f"{error}, {floor}" for floor in floors for error in errors),
        ]
        for name in names:
            assert bundle[name]["mean"] == pytest.approx(run[name]["mean"], rel=1e-3, abs=1e-6)
        assert run["force missed [N], reference"]["mean"] == 0
        out = capsys.readouterr().out
        assert "±" in out
        assert run["error all, ridge on x"]["mean"] < 1e-3  # a push is linear, and 20 steps of training are few
        note = next(line for line in out.splitlines() if line.startswith("note "))
        assert "the network is worse than " in note
        assert "'ridge on x' on all and orbit, " in note

    @pytest.mark.usefixtures("few_tasks", "no_doubts")
    def test_a_filter_is_asked_how_sure_it_is(self, trained, tiny, tmp_path, capsys, msr) -> None:
        """Its intervals over the orbit are counted, alike for the run and for its bundle. Other rules have none."""
        family = ("--family", f"{trained / 'push.py'}:Push")
        learner = ("--learner.rule", "recursive", "--settings.start", trained / "run", "--settings.fewest-shots", 8)
        assert msr("train", family[1], tmp_path / "run", *tiny, *learner, "--learner.filters", 3) == 2
        assert "has another network" in capsys.readouterr().err
        assert msr("train", family[1], tmp_path / "run", *tiny, *learner) == 0
        assert "nats per number of y" in capsys.readouterr().out
        assert msr("export", tmp_path / "run", tmp_path / "bundle", *family, "--no-structure") == 0
        for name in ("run", "bundle"):
            file = tmp_path / f"{name}.json"
            assert msr("evaluate", tmp_path / name, *family, "--tasks", 8, "--json", file) == 0
        run, bundle = (json.loads((tmp_path / f"{name}.json").read_text())[0] for name in ("run", "bundle"))
        for name in ("error orbit", "90 % intervals hold", "normalized innovation squared"):
            assert bundle[name]["mean"] == pytest.approx(run[name]["mean"], rel=1e-2)
        assert 0 < run["90 % intervals hold"]["mean"] <= 1
        assert "90 % intervals hold" in capsys.readouterr().out

    @pytest.mark.usefixtures("few_tasks", "no_doubts")
    def test_precision_is_printed_and_makes_a_bundle_smaller(self, trained, tiny, tmp_path, capsys, msr) -> None:
        """What `msr export` says of it, `msr info` says of the bundle. Small constants are left as they are."""
        family, sizes = ("--family", f"{trained / 'push.py'}:Push"), list[int]()
        assert msr("train", family[1], tmp_path / "run", *tiny, "--learner.width", 16, "--learner.filters", 20) == 0
        capsys.readouterr()
        for precision in ("float32", "float16", "int8"):
            options = (*family, "--precision", precision, "--no-structure")
            assert msr("export", tmp_path / "run", tmp_path / precision, *options) == 0
            written = _row(capsys.readouterr().out, "precision")
            assert msr("info", tmp_path / precision) == 0
            assert _row(capsys.readouterr().out, "precision") == written
            if precision == "float32":
                assert written == "float32"
            else:
                assert re.match(rf"{precision}: error \S+, in float32 \S+, on \d+ validation tasks: [+-]\S+ %", written)
            sizes.append((tmp_path / precision / "adapt.onnx").stat().st_size)
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == 3
        assert msr("export", tmp_path / "run", tmp_path / "new", "--precision", "float8") == 2
        assert "float8" in capsys.readouterr().err
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize("arguments", [["evaluate", "bundle"], ["evaluate", "run"], ["export", "run", "new"]])
    def test_own_family_has_to_be_named(self, arguments, trained, refusal, monkeypatch, msr) -> None:
        """A program is never run because a file names it, and the refusal asks for --family."""
        monkeypatch.chdir(trained)
        before = set(sys.modules)
        assert msr(*arguments) == 2
        assert "name the family that you trust with --family" in refusal()
        assert not any("push" in name for name in set(sys.modules) - before)
        assert not (trained / "new").exists()

    def test_recorded_data_is_found_from_any_folder(self, tmp_path, monkeypatch) -> None:
        """In the working folder, and else beside the run or above it. Both places are named where it is nowhere."""
        near, here = tmp_path / "project" / "logs.npz", tmp_path / "here" / "logs.npz"
        run = tmp_path / "project" / "runs" / "logs"
        for folder in (run, here.parent):
            folder.mkdir(parents=True)
        monkeypatch.chdir(here.parent)
        with pytest.raises(FamilyError, match=r"working folder, /.*here, and from the folders that hold the model"):
            family_of(run, None, "logs.npz")
        for file, tasks in ((near, 30), (here, 20)):
            x = np.zeros((tasks, 4, 1))
            np.savez(file, x=x, y=x, split=["test"] * tasks)
            for path in (run, Path("../project/runs/logs")):
                family = family_of(path, None, "logs.npz")
                assert isinstance(family, Recorded)
                assert family.path.resolve() == file

    def test_evaluation_shares_no_draw_with_training(self, trained, tmp_path, monkeypatch, msr) -> None:
        """Not even where the seeds are equal."""
        seen = []
        monkeypatch.setattr(
            evaluate, "score_all", lambda family, methods, rng, **_: (seen.append(rng), _nothing(family, methods))[1]
        )
        assert msr("evaluate", trained / "run", "--family", f"{trained / 'push.py'}:Push") == 0
        states = [stream(0, number).bit_generator.state for number in range(100)]
        assert seen[0].bit_generator.state not in states

    def test_family_of_other_fields(self, trained, refusal, msr) -> None:
        """A family whose fields differ from the model's is refused."""
        assert msr("evaluate", trained / "run", "--family", "hex-drive") == 2
        assert "other fields" in refusal()


def _row(text: str, name: str) -> str:
    """What is printed beside a name, on as many lines as it takes."""
    found = re.search(rf"^{name}\s+(.*(?:\n\s+.*)*)", text, re.MULTILINE)
    assert found
    return " ".join(found[1].split())
