"""The page that goes from nothing to a driving robot stays short: what its reader writes is counted."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/tutorials/two-wheels.md"
MOST = 80


def test_a_reader_writes_fewer_than_80_lines() -> None:
    """Programs and commands together, without blank lines. `test_code_blocks` runs them all."""
    blocks = re.findall(r"^```(?:bash|python)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert 40 < len(lines) < MOST
    text = "\n".join(lines)
    for needed in ("mirror()", "msr train", "msr export", "model.adapt", "ControlLoop"):
        assert needed in text
    assert "run: no" not in PAGE.read_text("utf-8")
