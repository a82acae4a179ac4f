"""`msr source` refuses in one sentence what cannot be written to."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(("folder", "wanted"), [("file", "exists: 'file'"), ("file/c", "Not a directory: 'file/c'")])
def test_a_folder_that_cannot_be_made_is_no_mistake_in_the_users_code(
    folder: str,
    wanted: str,
    msr: Callable[..., int],
    refusal: Callable[[], str],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The files of `msr_c` are this project's, as those of the other packages."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert msr("source", trained / "bundle", folder) == 2
    line = refusal()
    assert wanted in line
    assert "correct it" not in line


_SMALL_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
from msr_runtime.cli import main
main()
"""


def test_a_disk_that_is_full_leaves_the_old_files(msr: Callable[..., int], trained: Path, tmp_path: Path) -> None:
    """A source that breaks off in the middle of U would be compiled with zeros for the rest, or not at all."""
    assert msr("source", trained / "bundle", tmp_path) == 0
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    source = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    assert source.suffix == ".c"
    done = subprocess.run(
        [sys.executable, "-c", _SMALL_FILES, "source", str(trained / "bundle"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert f"'{source}'" in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old
