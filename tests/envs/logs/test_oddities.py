"""A log whose files can all be read may still be wrong. What surely is, is refused; the rest is a note."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from msr_envs.logs import log_family
from msr_runtime.errors import FamilyError
from tests.envs.logs.conftest import Columns, as_csv, described, drive

Change = Callable[[int, Columns], Columns]


def written(folder: Path, change: Change) -> Path:
    """Write four drives, each of them changed."""
    for index in range(4):
        (folder / f"drive_{index}.csv").write_text(as_csv(change(index, drive(index))))
    return folder


def _milliseconds(_: int, columns: Columns) -> Columns:
    return columns | {"time": columns["time"] * 1000}


def _other_rate(index: int, columns: Columns) -> Columns:
    return columns | {"time": columns["time"] * (2 if index == 1 else 1)}


def _rows_swapped(index: int, columns: Columns) -> Columns:
    order = np.arange(60)
    order[[20, 21, 40, 41]] = order[[21, 20, 41, 40]]
    return {name: values[order] if index == 1 else values for name, values in columns.items()}


def _rows_doubled(index: int, columns: Columns) -> Columns:
    return {name: np.insert(values, 30, values[30]) if index == 1 else values for name, values in columns.items()}


def _fault_code(index: int, columns: Columns) -> Columns:
    columns["yaw_rate"][7] = 1e30 if index == 1 else 0.0
    return columns


def _degrees(index: int, columns: Columns) -> Columns:
    return columns | {"yaw_rate": columns["yaw_rate"] * (57.3 if index == 1 else 1)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_milliseconds, "the time moves by 100 s in its usual step, .* 0.01 Hz; if it is in ms"),
        (_other_rate, "different rates, from 5 Hz in 'drive_1' to 10 Hz in 'drive_.'"),
        (_rows_swapped, "goes back, or stands still, at 2 rows of 1 drives, most in 'drive_1' .2.; sort the rows"),
        (_rows_doubled, "goes back, or stands still, at 1 rows of 1 drives"),
        (_fault_code, "field 'yaw_rate' holds 1e.30 rad/s in drive 'drive_1', more than 1000 times"),
        (_degrees, "field 'yaw_rate' is .* times as large in drive 'drive_1' as in 'drive_.'; .* another unit"),
    ],
)
def test_what_may_be_wrong_is_a_note(tmp_path: Path, change: Change, words: str) -> None:
    """A time in ms, drives at another rate, rows out of order or doubled, a sensor's fault code, another unit."""
    notes = log_family(described(), written(tmp_path, change)).notes
    assert sum(re.search(words, note) is not None for note in notes) == 1


def test_a_usual_log_has_no_such_note(cart: Callable[..., Path]) -> None:
    """Only what was read, and what was not."""
    assert len(log_family(described(), cart()).notes) == 1


def test_an_answer_that_stands_in_x_is_a_note(cart: Callable[..., Path]) -> None:
    """The network would be told what it is asked for. A row later it is another number."""
    inputs = [{"name": "seen", "columns": ["left", "yaw_rate"]}]
    same, later = (log_family(described(inputs=inputs, horizon=horizon), cart()).notes for horizon in (0, 1))
    assert "'yaw_rate' of y is field 'seen' element 1 of x in every sample" in same[-1]
    assert not any("nothing to learn" in note for note in later)


def test_an_output_that_never_changes_is_refused(tmp_path: Path) -> None:
    """Before the mirror is tested: y = 0.5 everywhere contradicts any mirror, and the message would name that."""
    folder = written(tmp_path, lambda _, columns: columns | {"yaw_rate": np.full(60, 0.5)})
    with pytest.raises(FamilyError, match=r"y \('yaw_rate'\) is \[0.5\] in every sample.*sensor that was off"):
        log_family(described(), folder)


def test_a_copy_of_a_drive_is_refused_in_another_split(tmp_path: Path) -> None:
    """The network would be tested on what it learned. In one split, a copy does no harm."""
    folder = written(tmp_path, lambda index, columns: drive(0) if index == 2 else columns)
    with pytest.raises(FamilyError, match=r"'drive_0' \(train\) and 'drive_2' \(test\) hold the same samples.*a copy"):
        log_family(described(split={"test": ["drive_2"], "validation": ["drive_3"]}), folder)
    log_family(described(split={"test": ["drive_1"], "validation": ["drive_3"]}), folder)


@pytest.mark.parametrize(("text", "words"), [("-", "leave the cell empty"), ("m/s", "a line below the header")])
def test_a_text_in_a_column_of_numbers_is_explained(cart: Callable[..., Path], text: str, words: str) -> None:
    """A dash stands for what is missing, and the first row may hold the units."""
    folder = cart()
    lines = (folder / "drive_1.csv").read_text().splitlines()
    lines.insert(1, ",".join([text] * 4))
    (folder / "drive_1.csv").write_text("\n".join(lines))
    with pytest.raises(FamilyError, match=words):
        log_family(described(), folder)
