"""Show on stderr how far the gathering is: a moving bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

_QUIET = 60.0
"""Seconds after which a line is written without a terminal."""
_LEAST = 2.0
"""Seconds that a gathering takes before anything is shown: a short one is not worth a line."""

T = TypeVar("T")


def shown(values: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield the values, and show how many of them are done."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(values, label, total, console=console, transient=True)
        return
    began, written = time.monotonic(), None
    for done, value in enumerate(values, 1):
        yield value
        now = time.monotonic()
        if now - began > _LEAST and (written is None or now - written > _QUIET or done == total):
            written = now
            print(f"{label}: {done} of {total}, {now - began:.0f} s", file=sys.stderr, flush=True)
