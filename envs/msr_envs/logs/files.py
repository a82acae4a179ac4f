"""Find the files of a log, and open each by its ending."""

import glob
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from msr_envs.logs.arrow import read_csv, read_parquet
from msr_envs.logs.recordings import read_recording
from msr_envs.logs.table import Arrays, Table, fail
from msr_runtime.errors import FamilyError

INFO = Path("meta", "info.json")
"""The file by which a folder is a LeRobot data set."""


def find_files(patterns: Sequence[str], folder: Path) -> list[Path]:
    """Return the files, and folders of data sets, that the patterns name, in the order of natural counting.

    Args:
        patterns: Paths or patterns. `**` stands for any folders.
        folder: Where paths begin that are not absolute.

    Raises:
        FamilyError: A pattern matches nothing.

    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        whole = os.path.join(folder, os.path.expanduser(pattern))  # noqa: PTH111, PTH118 - Path would tidy a pattern
        matches = [whole] if os.path.exists(whole) else glob.glob(whole, recursive=True)  # noqa: PTH110, PTH207
        if not matches:
            raise FamilyError(
                f"files '{pattern}': there is no such file (looked for {Path(whole).absolute()}); correct the path, "
                "which begins at the folder of the description"
            )
        found |= dict.fromkeys(map(Path, sorted(matches, key=_counting)))
    return list(found)


def open_table(path: Path) -> Table:
    """Read one file.

    Raises:
        FamilyError: Its ending is unknown, or it cannot be read.
    """
    if path.is_dir():
        fail(
            path,
            f"it is a folder without {INFO}, so it is no LeRobot data set; name its files, as in {path.name}/*.csv",
        )
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        fail(path, f"its ending '{path.suffix}' is none of {', '.join(_READERS)}")
    return reader(path)


def _read_npz(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return Arrays(path, {name: file[name] for name in file.files if file[name].ndim})
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        fail(path, f"cannot be read as a .npz file of plain arrays ({type(error).__name__}: {error}); write it again")


_READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_csv,
    ".parquet": read_parquet,
    ".npz": _read_npz,
    ".mcap": read_recording,
}
"""How files are read, by their ending."""


def _counting(name: str) -> list[tuple[int, str]]:
    """Order drive_2 before drive_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
