"""The memory of this machine."""

import math
import os


def machine_memory() -> float:
    """Return the machine's memory in bytes. Infinity if the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
