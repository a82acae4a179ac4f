"""Arrays of an .npz file, whose shapes and sizes are checked before they are unpacked."""

import io
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from msr_runtime.bundle.limits import MAX_GOLDEN, MAX_SAMPLES
from msr_runtime.errors import BundleError
from msr_runtime.task import Shape

Headers = Mapping[str, tuple[Shape, np.dtype]]
"""Name of an array to its shape and dtype."""

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def encode_arrays(arrays: Mapping[str, NDArray | float]) -> bytes:
    """Return arrays as the bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_arrays(data: bytes, names: Sequence[str], check: Callable[[Headers], None]) -> list[NDArray]:
    """Read arrays of an .npz file.

    Args:
        data: The bytes of the file.
        names: The names of the arrays.
        check: Called with their shapes and dtypes before one of them is unpacked. It raises for what is not wanted.

    Raises:
        Exception: Of many types, if the file is malformed.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        check({name: _read_header(archive, name) for name in names})
        arrays = []
        for name in names:
            with archive.open(f"{name}.npy") as file:
                # a pickle could run any code as it is loaded
                arrays.append(np.lib.format.read_array(file, allow_pickle=False))
        return arrays


@contextmanager
def reading(where: str, what: str) -> Iterator[None]:
    """Name the file if the block cannot read it.

    Args:
        where: The name of the file in error messages.
        what: What it should be.

    Raises:
        BundleError: The block raised anything.
    """
    try:
        yield
    except Exception as error:  # a malformed zip file or array header raises many types of errors
        raise BundleError(
            f"{where} is not {what} ({error}); it is damaged or another program wrote it: export again"
        ) from error


def length_of(headers: Headers, name: str) -> int:
    """Return the length of an array's first axis, or 0 if it has none."""
    return (headers[name][0] or (0,))[0]


def check_shapes(headers: Headers, wanted: Mapping[str, Shape], shots: int, batch: int) -> None:
    """Raise ValueError unless the arrays are numbers of the shapes `wanted`, and not too many.

    Args:
        headers: The shapes and dtypes.
        wanted: Name to shape.
        shots: The samples that are learned from.
        batch: The samples that are predicted.
    """
    for name, (shape, dtype) in headers.items():
        if shape != wanted[name] or dtype.kind not in "fiu":
            raise ValueError(f"{name} has shape {shape} and dtype {dtype}, but numbers of {wanted[name]} are wanted")
    if max(shots, batch) > MAX_SAMPLES:
        raise ValueError(f"it has {shots} shots and {batch} queries, but at most {MAX_SAMPLES} are allowed")
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in headers.values())
    if size > MAX_GOLDEN:
        raise ValueError(f"its arrays unpack to {size} bytes, but at most {MAX_GOLDEN} are allowed")


def _read_header(archive: zipfile.ZipFile, name: str) -> tuple[Shape, np.dtype]:
    """Return the shape and the dtype of an array in an .npz file, without its numbers."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type not in _PLAIN:  # the others may ask for gigabytes to unpack a few bytes
        raise ValueError(f"{name} is packed by method {entry.compress_type}, but numpy writes {_PLAIN}")
    with archive.open(entry) as file:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        size = file.tell() + math.prod(shape) * dtype.itemsize
    if entry.file_size != size:
        raise ValueError(f"{name} unpacks to {entry.file_size} bytes, but its header says {size}")
    return shape, dtype
