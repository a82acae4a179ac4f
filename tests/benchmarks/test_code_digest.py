"""The digest of computing code: wording does not change it, computing does."""

from pathlib import Path

import pytest
from code_digest import code_digest

CODE = '''"""A module."""

import math

__all__ = ["Rule", "area"]


class Rule:
    """A rule."""

    rate: float = 0.5
    """How fast it is."""


def area(radius: float, scale: float = 1.0) -> float:
    """The area."""
    if radius < 0:
        raise ValueError(f"radius is {radius}")
    return scale * math.pi * radius**2  # round
'''


def digest(folder: Path, **files: str) -> str:
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return code_digest([folder])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Circles, and what moves them."""'),
        ('    """How fast it is."""\n', ""),
        ("# round", "# of a disc"),
        ("radius: float, scale: float = 1.0) -> float", "radius, scale=1.0)"),
        ("import math\n", "import math\nfrom pathlib import Path\n"),
        ('f"radius is {radius}"', 'f"radius is {radius}, but a number from 0 on is wanted"'),
        ('__all__ = ["Rule", "area"]', '__all__ = ["area"]'),
        ("    rate: float = 0.5\n", "    rate = 0.5\n"),
        ("scale * math.pi", "(scale * math.pi)"),
        ("\n\n\ndef area", "\n\n    def __str__(self) -> str:\n        return 'a rule'\n\n\ndef area"),
    ],
)
def test_wording_changes_nothing(tmp_path: Path, old: str, new: str) -> None:
    assert old in CODE
    assert digest(tmp_path / "a", code=CODE) == digest(tmp_path / "b", code=CODE.replace(old, new))


def test_a_thing_may_move_to_another_file(tmp_path: Path) -> None:
    start = CODE.index("class Rule")
    end = CODE.index("def area")
    moved = digest(tmp_path / "b", first=CODE[:start] + CODE[end:], second=CODE[start:end])
    assert digest(tmp_path / "a", code=CODE) == moved


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5", "0.25"),
        ("radius**2", "radius**3"),
        ("radius < 0", "radius <= 0"),
        ("scale: float = 1.0", "scale: float = 2.0"),
        ("scale * math.pi", "scale + math.pi"),
        ("rate", "speed"),
        ('        raise ValueError(f"radius is {radius}")\n', "        return 0.0\n"),
    ],
)
def test_computing_changes_it(tmp_path: Path, old: str, new: str) -> None:
    assert old in CODE
    assert digest(tmp_path / "a", code=CODE) != digest(tmp_path / "b", code=CODE.replace(old, new))


def test_a_root_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.py is among the roots"):
        code_digest([tmp_path / "nowhere.py"])
