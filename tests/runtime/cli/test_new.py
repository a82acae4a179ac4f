"""`msr new` and `msr samples`: from nothing to a robot that drives, by the commands that are printed."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from msr_envs import check_family, load_family
from msr_runtime.cli.command import COMMANDS


@pytest.mark.usefixtures("few_tasks")
def test_every_command_from_a_new_file_to_a_driving_robot(tmp_path, monkeypatch, msr, tiny, capsys) -> None:
    """The commands that `msr new` prints, with the options of a tiny training, and those of its file."""
    monkeypatch.chdir(tmp_path)
    assert msr("new", "two_wheels.py") == 0
    text = Path("two_wheels.py").read_text()
    printed = [line.partition("  ")[2].strip().split() for line in capsys.readouterr().out.splitlines()]
    train, export, evaluate, drive = printed[1:]
    assert train == ["msr", "train", "two_wheels.py:TwoWheels", "runs/two_wheels"]
    samples, adapt = (
        ["msr", "samples", "two_wheels.py:TwoWheels", "samples.npz"],
        ["msr", "adapt", "runs/two_wheels/bundle", "samples.npz"],
    )
    for command in (train, export, evaluate, samples, adapt, drive):
        assert f"    {' '.join(command)}\n" in text
    assert msr(*train[1:], *tiny) == 0
    for command in (export, [*evaluate[:-1], "1", "--tasks", "3", "--json", "scores.json"], samples):
        assert msr(*command[1:]) == 0
    assert msr(*adapt[1:]) in (0, 1)  # so short a training may be refused
    (scores,) = json.loads(Path("scores.json").read_text())
    assert scores["path error [m], adapted"]["mean"] > scores["path error [m], reference"]["mean"] > 0

    spec = importlib.util.spec_from_file_location("two_wheels", "two_wheels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TICKS", 3)
    module.main("runs/two_wheels/bundle")
    assert "support loss " in capsys.readouterr().out


def test_the_family_is_right() -> None:
    """It keeps the contract, and the augmentation is a symmetry of each task."""
    family = load_family("msr_runtime.cli.template:MyRobot")
    check_family(family, closed_loop=True)
    batch = family.sample(np.random.default_rng(0), 50, 1, 2000, "train")
    for fields, array in ((family.inputs, batch.query_x), (family.outputs, batch.query_y)):
        for number, field in enumerate(f for f in fields for _ in range(f.size)):
            assert field.low <= array[..., number].min() < 0.5 * field.low  # bounds are kept, and not too wide
            assert field.high >= array[..., number].max() > 0.5 * field.high


def test_nothing_is_overwritten(tmp_path, msr, refusal) -> None:
    """A file that is there stays as it is."""
    file = tmp_path / "robot.py"
    file.write_text("mine")
    assert msr("new", file) == 2
    assert f"'{file}' is there already, and nothing is overwritten; name another file" in refusal()
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["robot", "robot.txt", "7.py", ".py", "class.py", "absent/robot.py"])
def test_a_name_that_is_no_module_is_refused(name: str, tmp_path, monkeypatch, msr, capsys, refusal) -> None:
    """The refusal says which name is wanted. `class.py` makes the class `Class`."""
    monkeypatch.chdir(tmp_path)
    code = msr("new", name)
    if name == "class.py":
        assert code == 0
        assert "class.py:Class" in capsys.readouterr().out
        return
    assert code == 2
    assert f"'{name}'" in refusal()
    assert list(tmp_path.iterdir()) == []


class TestSamples:
    def test_they_are_a_support_set_and_a_query_set(self, tmp_path, msr, capsys) -> None:
        """Of the task that the seed names, in raw units, with the numbers of samples that are asked for."""
        out = tmp_path / "samples.npz"
        assert msr("samples", "rank1", out, "--shots", 3, "--queries", 5, "--seed", 2) == 0
        assert "one of rank1, test, seed 2" in capsys.readouterr().out
        wanted = load_family("rank1").sample(np.random.default_rng(2), 1, 3, 5, "test")
        with np.load(out) as arrays:
            assert sorted(arrays.files) == sorted(wanted._fields)
            for name, array in wanted._asdict().items():
                np.testing.assert_array_equal(arrays[name], array[0])

    def test_queries_are_counted_per_query_set(self, tmp_path, msr) -> None:
        """ring-nav has two of them."""
        assert msr("samples", "ring-nav", tmp_path / "a.npz", "--queries", 4) == 0
        with np.load(tmp_path / "a.npz") as arrays:
            assert (len(arrays["support_x"]), len(arrays["query_x"])) == (10, 8)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["rank1", "a.csv"], "'a.csv' does not end in .npz"),
            (["rank1", "a.npz", "--shots", "0"], "--shots is 0, but at least 1 is wanted"),
            (["rank", "a.npz"], "family 'rank' is unknown"),
        ],
    )
    def test_refusals(self, arguments, says, tmp_path, monkeypatch, msr, refusal) -> None:
        """In one sentence, and no file is written."""
        monkeypatch.chdir(tmp_path)
        assert msr("samples", *arguments) == 2
        assert says in refusal()
        assert list(tmp_path.iterdir()) == []


ADDRESS = "s3://bucket/a"
ARGUMENTS = {
    "new": [[f"{ADDRESS}.py"]],
    "train": [["rank1", ADDRESS], [f"{ADDRESS}.npz", "run"]],
    "evaluate": [[ADDRESS], ["run", "--json", ADDRESS]],
    "export": [[ADDRESS, "bundle"], ["run", ADDRESS]],
    "source": [[ADDRESS, "c"], ["bundle", ADDRESS]],
    "samples": [["rank1", f"{ADDRESS}.npz"]],
    "check": [[ADDRESS, "ring-nav"], ["policy.onnx", f"{ADDRESS}.npz"]],
    "info": [[ADDRESS]],
    "compile": [[ADDRESS], ["bundle", "--sign", ADDRESS]],
    "adapt": [[ADDRESS, "a.npz"], ["bundle", ADDRESS], ["bundle", "a.npz", "--save", ADDRESS]],
    "bench": [[ADDRESS]],
    "serve": [[ADDRESS], [f"name={ADDRESS}"]],
    "replay": [[ADDRESS, "bundle"], ["a.mcap", ADDRESS]],
    "score": [[ADDRESS, "bundle"], ["a.npz", ADDRESS]],
    "dataset": [[ADDRESS, "--out", "a.npz"], ["a.mcap", "--out", ADDRESS]],
    "keygen": [[ADDRESS]],
    "sign": [[ADDRESS, "--key", "key.pem"], ["bundle", "--key", ADDRESS]],
    "verify": [[ADDRESS, "--key", "key.pem"], ["bundle", "--key", ADDRESS]],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_takes_an_address_for_a_path(command: str, tmp_path, monkeypatch, msr, refusal) -> None:
    """It is refused by name, and no folder called `s3:` is made."""
    monkeypatch.chdir(tmp_path)
    for arguments in ARGUMENTS[command]:
        assert msr(command, *arguments) == 2
        assert f"'{next(a for a in arguments if ADDRESS in a).partition('=')[2] or ADDRESS}" in refusal()
        assert list(tmp_path.iterdir()) == []
