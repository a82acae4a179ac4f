"""`msr source` refuses in one sentence what cannot be written to."""

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
