"""The page on the architecture names every room that is there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def rooms(package: Path) -> Iterator[str]:
    """The packages directly in a package."""
    return (path.parent.name for path in sorted(package.glob("*/__init__.py")))


@pytest.mark.parametrize("package", ["msr_runtime", "msr_runtime/meta", "envs/msr_envs"])
def test_each_room_is_on_the_page(package) -> None:
    named = set(re.findall(r"`([a-z_.]+)`", PAGE)) | {"meta"}
    assert [room for room in rooms(ROOT / package) if room not in named] == []
