"""Parts that several commands share: declarations of arguments, and output as text or JSON."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from msr_runtime.errors import InputError
from msr_runtime.files import local_path, missing_folder, write_atomically


def visible(text: object) -> str:
    """Return a text in which each character that does not print, such as a line break, stands as its escape.

    Otherwise a text from a file could move the terminal's cursor, write over other lines, and look like a message of
    this program.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def option(metavar: str, default: str) -> Any:
    """Describe an option in the help: its value as `metavar`, and in words what happens without it.

    Without this, tyro shows `{None}|PATH` and `(default: None)`, which say neither of the two.
    """
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


def visible_lines(text: object) -> list[str]:
    """Return the lines of a text, with `visible` characters only."""
    return [visible(line) for line in str(text).split("\n")]


def _keys(paths: list[str]) -> tuple[Path, ...]:
    if not all(paths) or not paths:
        # Without this, an empty variable in `--key $KEY` would switch the check of the signature off.
        raise ValueError("it is given without a file, but at least one public key is wanted; leave it out for no check")
    return tuple(map(local_path, paths))


Keys = Annotated[
    tuple[Path, ...],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="PUBLIC.pem ...",
        instance_from_str=_keys,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [str(path) for path in value],
    ),
]
"""PEM files with Ed25519 public keys: at least one if the option is given."""
BundlePath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BUNDLE")]
"""The folder of a bundle."""
TrustedKeys = Annotated[Keys, option("PUBLIC.pem ...", "none; unsigned bundles are accepted")]
"""Public keys of which one must have signed the bundle."""
JsonPath = Annotated[Path | None, option("FILE.json", "no file")]
"""A file for the figures that are also printed."""


def refuse(error: object) -> None:
    """Print an error on stderr. Its further lines, if it has some, are indented."""
    print("msr: " + "\n  ".join(visible_lines(error)), file=sys.stderr)


def require_folder(file: Path | None) -> None:
    """Refuse a file that cannot be written for want of its folder, before the work whose result it is to hold.

    Raises:
        InputError: There is no such folder.
    """
    if file and (missing := missing_folder(file)):
        raise InputError(f"cannot write '{file}': {missing}; make it, or name another file")


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Write `figures` as a JSON list with one object."""
    write_atomically(path, (json.dumps([dict(figures)], indent=2, allow_nan=False) + "\n").encode())


def print_rows(rows: Mapping[str, object]) -> None:
    """Print one line per row: its name and its value, aligned, with `visible` characters only."""
    shown = {visible(name): visible(value) for name, value in rows.items()}
    longest = max(map(len, shown))
    for name, value in shown.items():
        print(f"{name:<{longest}}  {value}")
