"""Read an .npz file that a user names."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import InputError


def read_npz(path: Path) -> dict[str, NDArray]:
    """Return the arrays of an .npz file by name. Nothing is unpickled.

    Raises:
        InputError: If it is no .npz file, is damaged, or holds something else than numbers.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"'{path}' is not an .npz file of numbers, or is damaged; write it with np.savez") from error
