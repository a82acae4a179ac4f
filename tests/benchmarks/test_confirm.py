"""A stored result is confirmed by equal numbers alone."""

import importlib
from pathlib import Path

import confirm
import pytest
import store
from store import ROOT, Code, Confirmation, Result, is_current, read_result, write_result
from training import ROOTS

SCRIPT = "benchmarks/synthetic.py"


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A result of today's commit, as other code than today's would have stored it."""
    monkeypatch.setattr(confirm, "RESULTS", tmp_path)
    head = confirm._git("rev-parse", "HEAD")
    result = read_result(store.RESULTS / "synthetic-signals.json")
    code = Code(roots=[*ROOTS, SCRIPT], digest="other")
    path = tmp_path / "synthetic-signals.json"
    made = {"commit": head, "changed": False, "transcribed": False, "code": code, "confirmed": []}
    write_result(path, Result(**{**result, **made}))
    return path


def change(path: Path, **values: object) -> None:
    write_result(path, Result(**{**read_result(path), **values}))


def test_confirmed_code_is_current() -> None:
    """A result is current with the code that measured it and with each that was confirmed, and with no other."""
    result = read_result(store.RESULTS / "demo.json")
    known = Confirmation(roots=["envs"], digest="b", commit="0" * 40, date="2026-01-01T00:00:00+00:00", runs=3)
    result = Result(**{**result, "code": Code(roots=["envs"], digest="a"), "confirmed": [known]})
    assert [is_current(result, lambda _, today=today: today) for today in "abc"] == [True, True, False]
    assert not is_current(Result(**{**result, "code": None}), lambda _: "b")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"code": None}, "copied from a table"),
        ({"changed": True}, "uncommitted changes"),
        ({"code": Code(roots=["msr_runtime/adaptation"], digest="")}, "no result of learning"),
    ],
)
def test_what_cannot_be_confirmed_is_refused_before_anything_runs(stored: Path, values: dict, message: str) -> None:
    change(stored, **values)
    with pytest.raises(SystemExit, match=f"{message}.*measure it again: .*synthetic.py --store"):
        confirm.check(stored)


def test_a_missing_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no .*nothing\.json"):
        confirm.check(tmp_path / "nothing.json")


def test_a_changed_script_is_not_confirmed(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No short run covers the script itself: at its first commit it was another one."""
    if confirm._git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("this checkout has no older commit")
    first = confirm._git("log", "--diff-filter=A", "--format=%H", "--", SCRIPT).split()[-1]
    change(stored, commit=first)
    assert not confirm.confirm(stored, {})
    assert f"{SCRIPT} has changed" in capsys.readouterr().out
    assert read_result(stored)["confirmed"] == []


@pytest.mark.parametrize("script", confirm.MINIATURES)
def test_what_makes_a_script_small_are_options_of_it(script: str) -> None:
    """And its figures are smaller than the script's own."""
    options = importlib.import_module(Path(script).stem).Options()
    for name, value in confirm.MINIATURES[script].items():
        usual = getattr(options, name)
        assert value != usual
        assert isinstance(value, str) or value < usual


def test_options_are_written_as_the_command_reads_them() -> None:
    assert confirm._option("augment", value=True) == ["--augment"]
    assert confirm._option("augment", value=False) == ["--no-augment"]
    assert confirm._option("training_tasks", 3) == ["--training-tasks", "3"]
    assert confirm._option("forms", ["full, 32", "kronecker"]) == ["--forms", "full, 32", "kronecker"]


@pytest.mark.slow
def test_equal_numbers_confirm_and_different_ones_do_not(
    stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Today's commit computes what today's commit computes; a step that differs is named."""
    assert confirm.confirm(stored, {})
    assert is_current(read_result(stored))
    change(stored, confirmed=[])
    numbers = confirm._numbers

    def other(root: Path, result: Result, script: str | None, places: dict[str, str]) -> object:
        return ({**run, "steps": []} if root == ROOT else run for run in numbers(root, result, script, places))

    monkeypatch.setattr(confirm, "_numbers", other)
    assert not confirm.confirm(stored, {})
    assert "differs; measure it again" in capsys.readouterr().out
    assert read_result(stored)["confirmed"] == []
