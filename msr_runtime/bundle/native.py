"""The version of a bundle's native code: of the functions through which the runtime calls it."""

import re

INTERFACE = 4
"""The version that is written and called."""
_VERSION = re.compile(rb"native_sizes\[\d+\] = \{(\d+),")


def interface_of(source: bytes) -> int | None:
    """Return the version of a source of native code. None if it is no such source."""
    found = _VERSION.search(source)
    return None if found is None else int(found[1])
