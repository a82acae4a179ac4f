"""Read CSV and Parquet files with pyarrow."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msr_envs.logs.needs import require_package
from msr_envs.logs.table import Floats, fail, refuse_text
from msr_runtime.errors import FamilyError

_NOTHING = ["", "NaN", "nan", "NAN", "null", "NULL", "None", "NA", "N/A", "-nan"]
"""What a CSV file writes where there is no value."""
_SEPARATORS = (",", ";", "\t")


class Arrow:
    """A table that pyarrow has read. Columns become arrays when they are asked for."""

    def __init__(self, path: Path, table: Any) -> None:
        self.path, self._table = path, table
        self.rows: int = table.num_rows

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return self._table.column_names

    def numbers(self, column: str) -> Floats:
        """Return a column as `(rows, n)`. A missing value is NaN."""
        types, compute = require_package("pyarrow.types", "a table"), require_package("pyarrow.compute", "a table")
        array = self._table[column].combine_chunks()
        if types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
            return self._vectors(column, array, compute)
        if types.is_timestamp(array.type):
            array = array.cast("timestamp[ns]").cast("int64").cast("float64", safe=False)
            return np.array(array.to_numpy(zero_copy_only=False))[:, None] / 1e9
        if types.is_null(array.type):
            return np.full((self.rows, 1), np.nan)
        if types.is_string(array.type) or types.is_large_string(array.type):
            texts = array.to_pylist()
            row = next((row for row, text in enumerate(texts) if not _is_number(text)), 0)
            refuse_text(self.path, column, row + 1, texts[row])
        if not (types.is_floating(array.type) or types.is_integer(array.type) or types.is_boolean(array.type)):
            fail(self.path, f"column '{column}' has the type {array.type}, but numbers are wanted; leave it out")
        return np.array(array.cast("float64", safe=False).to_numpy(zero_copy_only=False), np.float64)[:, None]

    def texts(self, column: str) -> NDArray[np.str_]:
        """Return a column that names something as `(rows,)`."""
        return np.array([str(value) for value in self._table[column].to_pylist()], dtype=str)

    def _vectors(self, column: str, array: Any, compute: Any) -> Floats:
        lengths = sorted(set(compute.list_value_length(array).drop_null().to_pylist()))
        if len(lengths) > 1:
            fail(
                self.path,
                f"column '{column}' holds lists of {lengths[0]} to {lengths[-1]} numbers, but all must be equally long",
            )
        there = array.is_valid().to_numpy(zero_copy_only=False)
        flat = array.drop_null().flatten()
        try:
            values = flat.cast("float64", safe=False).to_numpy(zero_copy_only=False)
        except Exception as error:  # pyarrow's own, of several kinds
            raise FamilyError(
                f"log '{self.path}': column '{column}' holds lists of {flat.type}, but numbers are wanted; leave it out"
            ) from error
        vectors = np.full((self.rows, lengths[0] if lengths else 1), np.nan)
        vectors[there] = values.reshape(-1, vectors.shape[1])
        return vectors


def read_parquet(path: Path) -> Arrow:
    """Read a Parquet file.

    Raises:
        FamilyError: It is damaged, or pyarrow is missing.
    """
    parquet, pyarrow = require_package("pyarrow.parquet", f"log '{path}'"), require_package("pyarrow", f"log '{path}'")
    try:
        table = parquet.read_table(path, partitioning=None)
    except (pyarrow.ArrowException, OSError) as error:
        fail(path, f"cannot be read as Parquet ({_first_line(error)}); copy or write the file again")
    return Arrow(path, table)


def read_csv(path: Path) -> Arrow:
    """Read a CSV file with a header, separated by commas, semicolons or tabs.

    Raises:
        FamilyError: It has no header, no rows, rows of different length, two columns of one name, or an encoding other
            than UTF-8; or pyarrow is missing.
    """
    csv, pyarrow = require_package("pyarrow.csv", f"log '{path}'"), require_package("pyarrow", f"log '{path}'")
    names, separator = _header(path)
    ragged: list[Any] = []

    def skip(row: Any) -> str:
        ragged.append(row)
        return "skip"

    try:
        table = csv.read_csv(
            path,
            # one thread: pyarrow then numbers the rows
            read_options=csv.ReadOptions(use_threads=False, skip_rows=1, column_names=names),
            parse_options=csv.ParseOptions(delimiter=separator, invalid_row_handler=skip),
            convert_options=csv.ConvertOptions(null_values=_NOTHING, strings_can_be_null=True),
        )
    except (pyarrow.ArrowException, OSError) as error:
        fail(path, f"cannot be read as CSV ({_first_line(error)}); is it text in UTF-8?")
    if ragged:
        row = ragged[0]
        cells = "the likely cause is a decimal comma, a text with the separator in it, or a line that was cut short"
        fail(
            path,
            f"{len(ragged)} rows have another number of cells than the header, the first in line {row.number}: "
            f"{row.actual_columns} cells, but {row.expected_columns} columns; {cells}",
        )
    if not table.num_rows:
        fail(path, "it has a header but no rows; the likely cause is a recording that ended at once: leave it out")
    return Arrow(path, table)


def _header(path: Path) -> tuple[list[str], str]:
    """Return the names of the columns and the separator."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise FamilyError(f"log '{path}': cannot be read as text in UTF-8 ({error})") from error
    separator = max(_SEPARATORS, key=line.count)
    names = [name.strip().strip("\"'").strip() for name in line.split(separator)]
    if not line.strip():
        fail(path, "it is empty, or its first line is, but the names of the columns are wanted there")
    if all(_is_number(name) for name in names):
        fail(path, f"its first line holds numbers, {line.strip()[:40]}, but the names of the columns are wanted there")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        fail(path, f"the name '{twice[0]}' stands over several columns, but each column needs a name of its own")
    return names, separator


def _is_number(text: str | None) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
