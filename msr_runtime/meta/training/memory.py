"""The memory of this machine, and what this process keeps of it."""

import ctypes
import math
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, from malloc.h of the GNU C library."""
_KEPT, _LARGEST = 2**31 - 1, 32 * 2**20
"""Bytes of freed memory that are kept, and the largest block that may be: the library allows no more."""


def machine_memory() -> float:
    """Return the machine's memory in bytes. Infinity if the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, for what it allocates next. Nothing else changes.

    An outer step allocates and frees the same large blocks again and again. The GNU C library gives such a block back
    to the system at once, which then clears it page by page when it is asked for the next one. Other libraries keep
    blocks, or have no such setting: there, nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_MMAP_THRESHOLD, _LARGEST)
