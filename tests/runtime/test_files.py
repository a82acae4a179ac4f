"""Files and folders change their names in one step."""

from pathlib import Path

from msr_runtime.files import exchange


def listed(folder: Path) -> list[str]:
    """The names in a folder."""
    return sorted(entry.name for entry in folder.iterdir())


def test_two_names_are_exchanged_in_one_step(tmp_path: Path) -> None:
    """Two folders exchange their names and keep their contents. If one is missing, nothing changes."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert (listed(tmp_path / "a"), listed(tmp_path / "b")) == (["b"], ["a"])
    assert not exchange(tmp_path / "a", tmp_path / "absent")
    assert listed(tmp_path) == ["a", "b"]
