"""Write files that are never half written: write to another name, flush to the disk, then rename.

Paths name files of this machine: `local_path` refuses addresses.
"""

import ctypes
import json
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from msr_runtime.errors import InputError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # constants of renameat2 in Linux: relative to the current folder; swap two names


_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # `Path` makes one slash of two; a drive has one letter alone


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file or folder of this machine.

    Raises:
        InputError: It is an address, such as `s3://bucket/run`. It would become a folder called `s3:`.

    Example:
        >>> from msr_runtime.files import local_path
        >>> local_path("runs/first").name
        'first'
        >>> local_path("s3://bucket/run")
        Traceback (most recent call last):
        msr_runtime.errors.InputError: 's3://bucket/run' is an address (s3), but a path of this machine is wanted: ...

    """
    if found := _ADDRESS.match(os.fspath(path)):
        scheme = found[1]
        address = re.sub(rf"^{re.escape(scheme)}:/+", f"{scheme}://", os.fspath(path))
        raise InputError(
            f"'{address}' is an address ({scheme}), but a path of this machine is wanted: mount the store, or copy "
            "between it and a local folder"
        )
    return Path(path)


def missing_folder(file: Path) -> str | None:
    """Return in words that there is no folder for a file. None if there is one."""
    return None if file.parent.is_dir() else f"there is no folder '{file.parent}'"


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a new file beside `path`, then rename it to `path`.

    After a crash, `path` holds either all of the new bytes or all of the old ones.

    Raises:
        OSError: If the system refuses, for example because the disk is full. The old file stays as it was. The error
            names `path`, and its folder if there is none.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        write_new(fresh, data)
        fresh.replace(path)
    except OSError as error:
        # the user has not heard of the hidden name
        missing = missing_folder(path)
        raise OSError(error.errno, f"{error.strerror}{f', because {missing}' if missing else ''}", str(path)) from error
    finally:
        with suppress(OSError):  # it was renamed, or never made
            fresh.unlink()
    sync_folder(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write `data` to a file that does not exist yet, and flush it to the disk.

    Raises:
        OSError: If the system refuses. The error names the file and the number of bytes.
    """
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a rename could reach the disk before the data does
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} while writing {len(data)} bytes", str(path)) from error


def sort_metadata(data: bytes) -> bytes:
    """Return a safetensors file with the metadata of its header in order.

    safetensors writes metadata in an order that differs from call to call. So equal content would give unequal bytes.

    Args:
        data: The bytes that `safetensors` made: 8 for the size of the header, the header in JSON, the tensors.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    ordered += b" " * (-len(ordered) % 8)  # the tensors begin at a multiple of 8 bytes
    return len(ordered).to_bytes(8, "little") + ordered + data[end:]


def exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two files or folders in one step, by `renameat2` of Linux.

    Returns:
        True if they were exchanged. False if the system cannot do it or refuses; then nothing changed.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another system, or a C library without this function
        return False
    return rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk, so that they survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # a file's own fsync saves its bytes, but not its name
    finally:
        os.close(handle)
