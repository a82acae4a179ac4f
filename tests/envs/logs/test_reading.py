"""Every format gives the same numbers, and a broken file is refused in one clear sentence."""

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal

from msr_envs.logs import LogField, log_family
from msr_envs.logs.files import find_files, open_table
from msr_runtime.errors import FamilyError
from tests.envs.logs.conftest import as_csv, described, drive


def test_each_format_gives_the_same_samples(tmp_path: Path) -> None:
    for index in range(3):
        columns = drive(index)
        (tmp_path / f"a_{index}.csv").write_text(as_csv(columns))
        (tmp_path / f"b_{index}.tsv").write_text(as_csv(columns, "\t"))
        (tmp_path / f"c_{index}.csv").write_text("\ufeff" + as_csv(columns, ";").replace("\n", "\r\n"), "utf-8")
        (tmp_path / f"d_{index}.csv").write_text(as_csv(columns).replace(",", ", "))
        pq.write_table(pa.table(columns), tmp_path / f"e_{index}.parquet")
        np.savez(tmp_path / f"f_{index}.npz", allow_pickle=False, **columns)
    one, *others = (log_family(described(files=f"{letter}_*"), tmp_path) for letter in "abcdef")
    for other in others:
        assert_array_equal(np.concatenate(other._x), np.concatenate(one._x))
        assert_array_equal(np.concatenate(other._y), np.concatenate(one._y))
        assert other.rate_hz == one.rate_hz == 10.0


ROWS = "0,1,2\n1,2,3\n2,3,4\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty"),
        ("t,a,b\n", "it has a header but no rows"),
        (ROWS, "first line holds numbers, 0,1,2, but the names"),
        ("t,a,a\n" + ROWS, "the name 'a' stands over several columns"),
        ("t,a,b\n" + ROWS + "3,4\n", "1 rows have another number of cells.*in line 5: 2 cells, but 3 columns"),
        ("t,a,b\n0,0,1,1,2\n", "5 cells, but 3 columns; the likely cause is a decimal comma"),
        ("t,a,b\n" + ROWS + "3,slow,4\n", "column 'a' holds the text 'slow' in row 4, but numbers are wanted"),
        ("t;a;b\n0;1,5;2\n", "column 'a' holds the text '1,5' in row 1.*decimal comma: export.*decimal point"),
        ('t,a,b\n0,"1,5",2\n', "'1,5' in row 1.*decimal comma"),
        ("t,b\n0,1\n", "field 'a' wants the column 'a', but there are t, b"),
        ("t,A,b\n" + ROWS, "wants the column 'a', but there are t, A, b. Did you mean 'A'"),
    ],
)
def test_a_broken_csv_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    said = described(files="x.csv", time=None, inputs=[LogField(name="a")], outputs=[LogField(name="b")])
    with pytest.raises(FamilyError, match=f"x.csv'.*{words}"):
        log_family(said, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x.csv").write_text("t,é\n0,1\n", encoding)
    with pytest.raises(FamilyError, match=r"x.csv': cannot be read as .* UTF-8"):
        open_table(tmp_path / "x.csv")


@pytest.mark.parametrize("name", ["x.parquet", "x.npz", "x.mcap", "x.csv"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe" * 50])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FamilyError, match=name):
        open_table(tmp_path / name)


def test_integers_that_become_fractions_late_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n" + "1\n" * 700_000 + "0.5\n")
    assert open_table(tmp_path / "x.csv").numbers("a")[-1] == 0.5


def test_lists_times_and_gaps_of_parquet_become_numbers(tmp_path: Path) -> None:
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    columns = {
        "state": [[1.0, 2.0], None, [3.0, 4.0]],
        "stamp": [start + datetime.timedelta(seconds=i) for i in range(3)],
        "on": [True, False, None],
        "nothing": pa.nulls(3),
        "ragged": [[1.0], [1.0, 2.0], [1.0]],
        "words": [["a"], ["b"], ["c"]],
        "dictionary": pa.array(["a", "b", "a"]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    table = open_table(tmp_path / "x.parquet")
    assert_array_equal(table.numbers("state"), [[1, 2], [np.nan, np.nan], [3, 4]])
    assert_array_equal(np.diff(table.numbers("stamp")[:, 0]), [1, 1])
    assert_array_equal(table.numbers("on")[:, 0], [1, 0, np.nan])
    assert np.isnan(table.numbers("nothing")).all()
    assert table.texts("dictionary").tolist() == ["a", "b", "a"]
    for column, words in (
        ("ragged", "lists of 1 to 2 numbers, but all must be equally long"),
        ("words", "lists of string, but numbers are wanted"),
        ("dictionary", "has the type dictionary.*but numbers are wanted"),
    ):
        with pytest.raises(FamilyError, match=words):
            table.numbers(column)


def test_arrays_of_different_length_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3), b=np.zeros(4))
    with pytest.raises(FamilyError, match="column 'b' has 4 rows, but another has 3"):
        open_table(tmp_path / "x.npz")


def test_files_are_counted_as_people_count(tmp_path: Path) -> None:
    for name in ("drive_10.csv", "drive_9.csv", "drive [1].csv"):
        (tmp_path / name).touch()
    assert [path.name for path in find_files(["drive_*.csv"], tmp_path)] == ["drive_9.csv", "drive_10.csv"]
    assert [path.name for path in find_files(["drive [1].csv"], tmp_path)] == ["drive [1].csv"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ("no/*.csv", "'no/\\*.csv': there is no such file .looked for /"),
        ("drive_0.log", "its ending '.log' is none of .csv, .tsv"),
        (".", "it is a folder without meta/info.json.*name its files"),
    ],
)
def test_a_wrong_path_is_refused(cart, files: str, words: str) -> None:
    folder = cart()
    (folder / "drive_0.log").touch()
    with pytest.raises(FamilyError, match=words):
        log_family(described(files=files), folder)
