"""The lock of a run's folder: one process at a time trains in it.

The system holds the lock, not the file: it ends with the process, also with one that is killed.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msr_runtime.errors import CheckpointError

LOCK = "lock"
"""Name of an empty file in a run's folder. It stays there, and says nothing about whether a process trains."""
_PATIENCE = 1.0
"""Seconds in which a lock may be tried again: another process that only looks holds it for a moment."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder.

    Raises:
        CheckpointError: Another process holds it.

    """
    with (folder / LOCK).open("ab") as file:
        last = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > last:
                    raise CheckpointError(
                        f"another process trains in folder {folder}, and two would overwrite each other's checkpoints; "
                        "wait until it has ended, stop it, or choose another folder"
                    ) from error
                time.sleep(0.05)
            except OSError:  # a file system without locks: train without one
                break
        yield


def require_free(folder: Path) -> None:
    """Refuse a run's folder in which another process trains. Nothing is written.

    Raises:
        CheckpointError: Another process holds the lock.

    """
    if (folder / LOCK).is_file():
        with locked(folder):
            pass
