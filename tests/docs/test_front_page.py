"""The front page leads to every command."""

from pathlib import Path

from msr_runtime.cli.command import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "index.md"


def test_every_command_has_a_row() -> None:
    """A stranger looks there first."""
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert [name for name in COMMANDS if not any(f"commands/{name}.md" in row for row in rows)] == []
