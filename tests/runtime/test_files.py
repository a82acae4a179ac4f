"""Files and folders change their names in one step. Addresses are no paths."""

import re
from pathlib import Path

import pytest

from msr_runtime import AdaptiveModel, Bundle
from msr_runtime.bundle.store import write_bundle
from msr_runtime.errors import InputError
from msr_runtime.files import exchange, local_path, write_atomically


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


def test_a_file_that_cannot_be_written_is_named_and_not_its_hidden_copy(tmp_path: Path) -> None:
    """What is missing is the folder, what is in the way is the folder of the same name. Nothing is left behind."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path, says in (
        (tmp_path / "none" / "x", f"there is no folder '{tmp_path / 'none'}'"),
        (tmp_path / "file" / "x", f"there is no folder '{tmp_path / 'file'}'"),
        (tmp_path / "folder", "Is a directory"),
    ):
        with pytest.raises(OSError, match=re.escape(says)) as error:
            write_atomically(path, b"1")
        assert error.value.filename == str(path)
        assert ".new" not in str(error.value)
    assert listed(tmp_path) == ["file", "folder"]
    assert listed(tmp_path / "folder") == []


@pytest.mark.parametrize(
    "address", ["s3://bucket/run", "gs://b", "file:///runs/a", "hf+x://a", Path("s3://bucket/run")]
)
def test_addresses_are_refused(address: str | Path) -> None:
    """With one slash too, which is what `Path` makes of two."""
    says = r"^'[a-z0-9+]+://[a-z/]+' is an address \([a-z0-9+]+\), but a path of this machine is wanted"
    with pytest.raises(InputError, match=says):
        local_path(address)


@pytest.mark.parametrize("path", ["runs/a", "/runs/a", "C:/runs", "a:b", "s3:", "run:1/x", ""])
def test_paths_are_paths(path: str) -> None:
    """Also those with a colon."""
    assert local_path(path) == Path(path)


def test_a_bundle_never_becomes_a_folder_called_s3(tmp_path, monkeypatch, linear, linear_files) -> None:
    """What reads bundles and what writes them refuse an address."""
    monkeypatch.chdir(tmp_path)
    address = "s3://bucket/bundle"
    calls = (Bundle.open, AdaptiveModel.load, lambda path: write_bundle(path, linear.manifest(), linear_files))
    for call in calls:
        with pytest.raises(InputError, match=f"'{address}' is an address"):
            call(address)
    assert list(tmp_path.iterdir()) == []
