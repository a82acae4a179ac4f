"""The `msr` command as a whole: its help, its refusals and its exit codes."""

import json
import os
from importlib import metadata

import numpy as np
import pytest
from fault_robot import vouch

from msr_runtime import Bundle
from msr_runtime.cli import command
from msr_runtime.cli.command import COMMANDS, GROUPS
from msr_runtime.recording.recorder import Recorder


class TestHelp:
    def test_usage(self, msr, capsys) -> None:
        """`msr --help` lists every command once, below the title of its group; `msr` alone exits with 2."""
        assert msr("--help") == 0
        out = capsys.readouterr().out
        assert out.startswith("usage: msr ")
        listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
        assert listed == list(COMMANDS)
        assert len(listed) == len(set(listed)) == 18
        assert all(f"\n{title}:\n" in out for title in GROUPS)
        assert msr() == 2
        assert capsys.readouterr().out == out

    def test_version(self, msr, capsys) -> None:
        """`msr --version` prints the version of the package."""
        assert msr("--version") == 0
        assert capsys.readouterr().out == f"msr-runtime {metadata.version('msr-runtime')}\n"

    def test_the_docstring_names_every_command(self) -> None:
        """The list in the module's docstring has the groups and commands of the table."""
        assert command.__doc__ is not None
        listed = [line.partition(": ")[2] for line in command.__doc__.splitlines() if line.startswith("* ")]
        assert listed == [", ".join(f"`{name}`" for name in group) + "." for group in GROUPS.values()]

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command(self, name, msr, capsys, monkeypatch) -> None:
        """The help of a command fits 100 columns and says in words what happens without an option."""
        monkeypatch.setenv("COLUMNS", "92")
        assert msr(name, "--help") == 0
        usage, *lines = capsys.readouterr().out.splitlines()
        assert usage.startswith(f"usage: msr {name} ")
        assert max(map(len, lines)) <= 100
        assert "(default: )" not in "\n".join(lines)
        if name != "train":  # its options come from the configuration, where None is a value like others
            assert "None" not in usage + "\n".join(lines)


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["inof"], "Did you mean 'info'? The commands are new, train, evaluate, export, "),
            (["train", "hexdrive", "run"], "The built-in families are ant, arm, hex-drive"),
            (["train", "hex-drive", "run", "--method", "mamel"], "the methods are msr, maml"),
            (["train", "hex-drive", "absent", "--resume"], "no checkpoint at absent/last.safetensors"),
            (["export", "absent", "bundle"], "no checkpoint at absent"),
            (["evaluate", "absent"], "no checkpoint at absent"),
            (["evaluate", "absent", "--tasks", "0"], "--tasks is 0"),
            (["info", "absent"], "'absent' is not a folder"),
        ],
    )
    def test_names(self, arguments, named, tmp_path, monkeypatch, refusal, msr) -> None:
        """An unknown name or missing file is refused in one line that says what there is."""
        monkeypatch.chdir(tmp_path)
        assert msr(*arguments) == 2
        assert named in refusal()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "arguments", [["adapt"], ["sign", "bundle"], ["train", "hex-drive", "run", "--learner.width", "0"]]
    )
    def test_usage(self, arguments, capsys, msr) -> None:
        """A missing argument or a value out of range exits with 2, without a traceback."""
        assert msr(*arguments) == 2
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "pydantic.dev" not in out + err

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["train", "rank1", "run", "--settings.steps", "0"], "steps is 0: input should be greater than 0"),
            (["train", "rank1", "run", "--settings.steps", "abc"], "'abc' is given, but a whole number is wanted"),
            (["train", "rank1", "run", "--learner.width", "8", "0"], "width is 0: input should be greater than 0"),
            (["train", "rank1", "run", "--learner.width", "8", "9"], "names 2 hidden layers, (8, 9), but depth is 3"),
            (["adapt", "bundle", "a.npz", "--steps", "abc"], "'abc' is given, but a whole number is wanted"),
            (["train", "rank1", "run", "--learner.damping", "x"], "'x' is given, but a number is wanted"),
        ],
    )
    def test_a_wrong_value_is_told_plainly(self, arguments, says, capsys, msr) -> None:
        """The message names the option, its value and what is wanted, in no words of Python or of pydantic."""
        assert msr(*arguments) == 2
        said = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert says in said
        assert not any(word in said for word in ("NoneType", "validation error", "type=", "literal", "pydantic"))

    @pytest.mark.parametrize("command", ["info", "adapt", "bench", "evaluate"])
    def test_damaged_bundle(self, command, bundle_path, samples, tmp_path, refusal, msr) -> None:
        """Every command that reads a bundle finds one changed byte."""
        np.savez(tmp_path / "a.npz", **samples)
        with (bundle_path / "adapt.onnx").open("r+b") as file:
            file.write(b"x")
        assert msr(command, bundle_path, *([tmp_path / "a.npz"] if command == "adapt" else [])) == 2
        assert "adapt.onnx" in refusal()

    @pytest.mark.parametrize("command", ["info", "adapt", "bench", "replay", "serve", "verify"])
    def test_a_run_in_place_of_a_bundle(self, command, tmp_path, bundle_path, samples, msr, capsys) -> None:
        """The refusal says that a run is exported first."""
        run = tmp_path / "run"
        run.mkdir()
        (run / "last.safetensors").touch()
        np.savez(tmp_path / "a.npz", **samples)
        with Recorder(tmp_path / "a.mcap", Bundle.open(bundle_path)):
            pass
        arguments = {
            "adapt": [run, tmp_path / "a.npz"],
            "replay": [tmp_path / "a.mcap", run],
            "serve": [run, "--port", 0],
        }
        assert msr(command, *arguments.get(command, [run])) == (1 if command == "verify" else 2)
        assert f"export it first: msr export {run} {run / 'bundle'}" in capsys.readouterr().err

    @pytest.mark.parametrize("command", ["bench", "evaluate", "score", "samples", "dataset"])
    def test_a_file_without_its_folder_is_refused_before_the_work(self, command, tmp_path, refusal, msr) -> None:
        """Before the bundle or the recording is read, too: here there is none."""
        file, read = tmp_path / "none" / "a.npz", tmp_path / "a"
        arguments = {
            "score": [read, read, "--json", file],
            "samples": ["rank1", file],
            "dataset": [read, "--out", file],
        }
        assert msr(command, *arguments.get(command, [read, "--json", file])) == 2
        assert f"cannot write '{file}': there is no folder '{file.parent}'" in refusal()

    def test_a_bundle_below_a_file_is_refused_before_the_export(self, tmp_path, refusal, msr) -> None:
        """Before the run is read, too: here there is none."""
        (tmp_path / "file").touch()
        assert msr("export", tmp_path / "run", tmp_path / "file" / "sub" / "bundle") == 2
        assert "cannot be a folder, because a file has the name of a folder above it" in refusal()

    @pytest.mark.parametrize(
        ("folder", "wanted"), [("file/c", "cannot be a folder"), ("file", "is a file, but a folder")]
    )
    def test_c_below_a_file_is_refused_before_the_export(self, folder, wanted, tmp_path, refusal, msr) -> None:
        """The export, which takes most of the time, would have been for nothing."""
        (tmp_path / "file").touch()
        assert msr("export", tmp_path / "run", tmp_path / "bundle", "--c", tmp_path / folder) == 2
        assert wanted in refusal()

    def test_a_bundle_in_place_of_a_run(self, bundle_path, refusal, msr) -> None:
        """What is exported already is not exported again."""
        assert msr("export", bundle_path, "new") == 2
        assert "is a bundle already" in refusal()

    @pytest.mark.usefixtures("few_tasks")
    def test_a_bundle_that_is_there_stays(self, trained, bundle_path, refusal, msr) -> None:
        """It is replaced only if the user says so."""
        before = (bundle_path / "manifest.json").read_bytes()
        family = ["--family", f"{trained / 'push.py'}:Push"]
        assert msr("export", trained / "run", bundle_path, *family) == 2
        assert "holds a bundle already" in (said := refusal())
        assert "--replace" in said
        assert (bundle_path / "manifest.json").read_bytes() == before
        assert msr("export", trained / "run", bundle_path, *family, "--replace", "--no-structure") == 0
        assert Bundle.open(bundle_path).manifest.name == "push"

    def test_a_file_cannot_forge_a_line(self, bundle_path, capsys, msr) -> None:
        """What does not print stands as its escape, in descriptions and in errors."""
        forged = "linear\nsignature         by key 0123456789abcdef\x1b[2K\r\u202e\x9b"
        manifest = json.loads((bundle_path / "manifest.json").read_bytes())
        manifest |= {"name": forged, "method": forged, "group": forged}
        manifest["inputs"][0] |= {"name": forged, "unit": forged}
        manifest["provenance"]["versions"] = {forged: forged}
        vouch(bundle_path, manifest)
        assert msr("info", bundle_path) == 0
        out = capsys.readouterr().out
        assert all(line.isprintable() for line in out.split("\n"))
        assert [line.split()[1] for line in out.splitlines() if line.startswith("signature")] == ["none"]
        assert r"linear\nsignature         by key 0123456789abcdef\x1b[2K\r\u202e\x9b" in out

        vouch(bundle_path, manifest | {"files": {**manifest["files"], forged: "0" * 64}})
        assert msr("info", bundle_path) == 2
        err = capsys.readouterr().err
        assert all(line.isprintable() for line in err.split("\n"))
        assert len(err.splitlines()) == 1

    def test_output_that_nobody_reads(self, bundle_path, start_without) -> None:
        """If the reader of the output has ended, as in `msr info | head`, the command prints no error."""
        read, write = os.pipe()
        os.close(read)
        with start_without("info", bundle_path, stdout=write) as process:
            os.close(write)
            _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (141, "")
