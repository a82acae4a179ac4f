"""LeRobot's data sets, versions 2 and 3, as files on disk. LeRobot itself is not needed.

Both versions keep the numbers of all frames in Parquet files under `data/`: version 2 one file an episode, version 3
many episodes a file. `meta/info.json` says the rate and the names. Videos are not read.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from msr_envs.logs.files import INFO
from msr_envs.logs.table import fail
from msr_runtime.errors import FamilyError

EPISODE, TIME = "episode_index", "timestamp"
"""The columns of the drive and of the time in every data set."""
_VERSIONS = ("v2", "v3")


class DataSet(NamedTuple):
    """What a data set says of itself."""

    files: tuple[Path, ...]
    """The Parquet files, in order."""
    rate_hz: float | None
    """Frames per second."""
    names: dict[str, tuple[str, ...]]
    """The names of the numbers of each column that has several."""


def is_data_set(path: Path) -> bool:
    """Return whether a folder is a LeRobot data set."""
    return (path / INFO).is_file()


def read_data_set(path: Path) -> DataSet:
    """Read what a data set says of itself.

    Raises:
        FamilyError: Its `meta/info.json` is damaged or of another version, or there are no Parquet files.
    """
    try:
        info = json.loads((path / INFO).read_text("utf-8"))
        version, features, fps = str(info["codebase_version"]), dict(info["features"]), info.get("fps")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FamilyError(
            f"log '{path}': {INFO} cannot be read ({type(error).__name__}: {error}), but codebase_version and features "
            "are wanted"
        ) from error
    if not version.startswith(_VERSIONS):
        fail(path, f"the data set has the version {version}, but v2.0 to v3 are read; convert it with LeRobot")
    files = tuple(sorted(path.glob("data/**/*.parquet")))
    if not files:
        fail(path, "it has no data/**/*.parquet; the likely cause is a download of meta alone, or pointers of git-lfs")
    rate = float(fps) if isinstance(fps, int | float) and fps > 0 else None
    return DataSet(files, rate, {column: names for column, feature in features.items() if (names := _names(feature))})


def _names(feature: Any) -> tuple[str, ...]:
    """Return the names of a feature's numbers: a list, or lists by part. Names that stand twice name nothing."""
    said = feature.get("names") if isinstance(feature, dict) else None
    found = tuple(_texts(said))
    return found if len(set(found)) == len(found) else ()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
