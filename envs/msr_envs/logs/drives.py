"""Take the files of a log apart into drives."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.logs.columns import Columns, near
from msr_envs.logs.description import LogDescription
from msr_envs.logs.files import find_files, open_table
from msr_envs.logs.lerobot import EPISODE, TIME, is_data_set, read_data_set
from msr_envs.logs.table import Floats, Table, fail


class Drive(NamedTuple):
    """The rows of one drive, in the order of the file."""

    name: str
    path: Path
    task: str
    values: tuple[Floats, ...]
    """The columns of each field of x and then of y, `(rows, n)`."""
    yaws: tuple[Floats | None, ...]
    """For each of these fields, the yaw by which it is turned into the body's frame, `(rows,)`."""
    time: Floats | None
    """`(rows,)`, in s."""


class LogFile(NamedTuple):
    """What one file holds."""

    path: Path
    drives: list[Drive]
    elements: tuple[tuple[str, ...], ...]
    """The names of the numbers of each field of x and then of y."""
    unread: list[str]
    """Names of the columns that nobody asked for."""
    rate_hz: float | None
    """The rate that the file states."""


class _Piece(NamedTuple):
    path: Path
    name: str
    """The name of the drive if the file is one drive, or what stands before the names of its drives."""
    drive: str | None
    time: str | None
    rate_hz: float | None = None
    names: dict[str, tuple[str, ...]] = {}


def read_files(said: LogDescription, folder: Path) -> Iterator[LogFile]:
    """Read the files of a log, one after another.

    Args:
        said: The description.
        folder: Where its paths begin.

    Raises:
        FamilyError: A file or a column is missing or damaged, a drive stands in two files, or two files differ in the
            columns that a field holds.

    """
    first: LogFile | None = None
    known: dict[str, Path] = {}
    for piece in _pieces(said, folder):
        file = _read(said, piece)
        first = first or file
        for field, own, given in zip((*said.inputs, *said.outputs), first.elements, file.elements, strict=True):
            if own != given:
                fail(
                    file.path,
                    f"field '{field.name}' holds {', '.join(given)}, but in '{first.path}' it holds {', '.join(own)}; "
                    "all files need the same columns in the same order: name them one by one (columns)",
                )
        for drive in file.drives:
            if known.setdefault(drive.name, file.path) != file.path:
                fail(file.path, f"its drive '{drive.name}' stands in '{known[drive.name]}' too; a drive is in one file")
        yield file


def _pieces(said: LogDescription, folder: Path) -> Iterator[_Piece]:
    paths = find_files(said.files, folder)
    stems = [path.stem for path in paths]
    for path in paths:
        if is_data_set(path):
            found, prefix = read_data_set(path), f"{path.name}:" if len(paths) > 1 else ""
            for file in found.files:
                yield _Piece(file, prefix, said.drive or EPISODE, said.time or TIME, found.rate_hz, found.names)
        else:
            # two files of one name lie in different folders
            name = path.stem if stems.count(path.stem) == 1 else path.with_suffix("").as_posix()
            if said.drive is not None:
                name = f"{name}:" if len(paths) > 1 else ""
            yield _Piece(path, name, said.drive, said.time)


def _read(said: LogDescription, piece: _Piece) -> LogFile:
    table = open_table(piece.path)
    columns = Columns(table, piece.names)
    fields = (*said.inputs, *said.outputs)
    found = [columns.find(field.sources(), f"field '{field.name}'") for field in fields]
    values = [np.concatenate([columns.numbers(source) for source in sources], 1) for sources in found]
    for field, value in zip(fields, values, strict=True):
        if field.body_frame and value.shape[1] % 2:
            fail(
                table.path,
                f"field '{field.name}' holds {value.shape[1]} numbers, but body_frame turns pairs x, y: name two "
                "columns for each vector",
            )
    yaws = [
        None if field.body_frame is None else columns.single(field.body_frame, f"body_frame of field '{field.name}'")
        for field in fields
    ]
    time = None if piece.time is None else columns.single(piece.time, "time")
    names, tasks = _texts(table, piece.drive, "drive"), _texts(table, said.task, "task")
    drives = []
    for name in [None] if names is None else list(dict.fromkeys(names.tolist())):
        rows = slice(None) if names is None else np.flatnonzero(names == name)
        whole = piece.name + (name or "")
        drives.append(
            Drive(
                whole,
                table.path,
                _task(table, whole, None if tasks is None else tasks[rows]),
                tuple(value[rows] for value in values),
                tuple(None if yaw is None else yaw[rows] for yaw in yaws),
                None if time is None else time[rows],
            )
        )
    elements = tuple(tuple(name for source in sources for name in columns.element_names(source)) for sources in found)
    used = columns.used | {piece.drive, said.task}
    return LogFile(table.path, drives, elements, [name for name in table.columns if name not in used], piece.rate_hz)


def _texts(table: Table, column: str | None, what: str) -> NDArray[np.str_] | None:
    if column is None:
        return None
    if column not in table.columns:
        fail(table.path, f"{what} names the column '{column}', {near(column, table.columns)}")
    return table.texts(column)


def _task(table: Table, drive: str, tasks: NDArray[np.str_] | None) -> str:
    """Return the task of a drive: its own, or the one that a column names in all its rows."""
    if tasks is None:
        return drive
    found = list(dict.fromkeys(tasks.tolist()))
    if len(found) > 1:
        fail(
            table.path,
            f"drive '{drive}' belongs to {len(found)} tasks, {found[0]} and {found[1]}, but a drive is in one task; "
            "name the column that tells its parts apart (drive)",
        )
    return found[0]
