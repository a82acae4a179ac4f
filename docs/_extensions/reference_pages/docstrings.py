"""Three corrections of what Sphinx shows: type aliases in signatures, indented code, and the texts of attributes."""

from typing import Any

from numpy.typing import ArrayLike, NDArray
from sphinx.util.typing import stringify_annotation

from msr_runtime import task
from msr_runtime.task import Array

# Python has resolved these names into long unions before Sphinx sees them.
_ALIASES = {"ArrayLike": ArrayLike, "Array": Array, "NDArray": NDArray, "Loss": task.Loss, "Split": task.Split}
_NAMES = {stringify_annotation(alias, "smart"): name for name, alias in _ALIASES.items()}


def use_aliases(*event: Any) -> tuple[str | None, str | None]:
    """Answer `autodoc-process-signature`: the parameters and what is returned, with the names that the code writes."""
    *_, parameters, returned = event
    return _shorten(parameters), _shorten(returned)


def _shorten(text: str | None) -> str | None:
    for long, name in _NAMES.items():
        text = text and text.replace(long, name)
    return text


def mark_code(*event: Any) -> None:
    """Answer `autodoc-process-docstring`: a block that is indented after a blank line is code, as in Markdown."""
    lines: list[str] = event[-1]
    shown, before = [], ""
    for number, line in enumerate(lines):
        gap = number > 0 and not lines[number - 1].strip()
        if gap and line.strip() and _indent(line) >= _indent(before) + 4 and not before.endswith("::"):
            shown += [" " * _indent(before) + "::", ""]
        shown.append(line)
        before = line if line.strip() else before
    lines[:] = shown


def keep_colons(*event: Any) -> None:
    """Answer `autodoc-process-docstring`: "A: B" below an attribute is text, and not a type and its text."""
    _, what, *_, lines = event
    if what in ("attribute", "property", "data") and any(lines):
        lines[:0] = ["..", ""]  # an empty comment: Google's form of "type: text" is read from the first line alone


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
