"""Files that are always whole: written under another name, flushed to the disk, then renamed."""

import ctypes
import os
import secrets
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path` and rename it: `path` holds all of the new or all of the old.

    Raises:
        OSError: If the system refuses, for example because the disk is full; what was at `path` is there still.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        write_new(fresh, data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write `data` to a file that does not exist yet, down to the disk.

    Raises:
        OSError: If the system refuses; it names the file.
    """
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} while writing {len(data)} bytes", str(path)) from error


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step (Linux's renameat2); False, and nothing done, where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another system, or a C library without it
        return False
    return rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
