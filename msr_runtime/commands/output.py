"""What the commands share: figures as files and as text, a bundle and trusted keys as arguments."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from msr_runtime.files import write_atomically

BundlePath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BUNDLE")]
TrustedKeys = tuple[Path, ...]
"""PEM files with Ed25519 public keys; with none, unsigned bundles are opened too."""


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Write a list with the one dict `figures`."""
    write_atomically(path, (json.dumps([dict(figures)], indent=2, allow_nan=False) + "\n").encode())


def print_rows(rows: Mapping[str, object]) -> None:
    """Print name and value, one a line, aligned."""
    longest = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{longest}}  {value}")
