"""Read a `.npz` file of plain arrays that somebody else has written."""

import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import FamilyError


def read_npz(what: str, path: Path, names: Collection[str] | None = None) -> tuple[dict[str, NDArray], list[str]]:
    """Return the arrays of a file, and the names of those that were not read. Nothing is unpickled.

    Args:
        what: What the file is, for messages: `recorded data`.
        path: The file, which exists.
        names: The arrays to read. None: all.

    Raises:
        FamilyError: The file is damaged, or holds anything else than plain arrays.

    """
    try:
        with zipfile.ZipFile(path) as archive:
            # numpy stops reading where the array's header says that it ends. The checksum behind it is then not tested.
            damaged = archive.testzip()
            # numpy writes no comments. A comment means that a wrong length has swallowed the entry of the next part.
            damaged = damaged or next((part.filename for part in archive.infolist() if part.comment), None)
        with np.load(path, allow_pickle=False) as file:
            known = [name for name in file.files if names is None or name in names]
            others = [name for name in file.files if name not in known]
            arrays = {name: file[name] for name in known} if damaged is None else {}
    except Exception as error:  # a damaged file can raise any error, anywhere in the reader
        raise FamilyError(
            f"{what} '{path}': cannot be read as a .npz file of plain arrays: {type(error).__name__}: {error}; "
            "the likely cause is a copy that was cut short, a file of another kind, or arrays of Python objects, such "
            "as rows of different length; write the file again with numpy.savez"
        ) from error
    if damaged is not None:
        raise FamilyError(f"{what} '{path}': its part '{damaged}' is damaged; copy or write the file again")
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise FamilyError(f"{what} '{path}': its part '{name}' is no array; write the file again with numpy.savez")
    return arrays, others
