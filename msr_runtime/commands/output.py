"""What the commands share: figures as files and as text, and a bundle as an argument."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

BundlePath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BUNDLE")]


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Write a list with the one dict `figures`, under a temporary name first, so that `path` is always whole."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps([dict(figures)], indent=2, allow_nan=False) + "\n", encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def print_rows(rows: Mapping[str, object]) -> None:
    """Print name and value, one a line, aligned."""
    longest = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{longest}}  {value}")
