"""examples/online.py: drives and keeps learning from the operator."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "online.py"


def test_example_drives_learns_and_reports(ring_bundle: Path) -> None:
    """It prints the reports of loop, adapter and guard, and how the drive ended."""
    done = subprocess.run(
        [sys.executable, EXAMPLE, ring_bundle, "500"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = {line.split(" ")[0]: line for line in done.stdout.splitlines()}
    assert "observed" in lines["samples"]
    assert "tried" in lines["updates"]
    assert "sent" in lines["actions"]
    assert done.stdout.splitlines()[-1].startswith("goal")


def test_example_without_a_bundle_says_how_it_is_used() -> None:
    """Without an argument it prints its usage on stderr and exits with 1."""
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "Usage" in done.stderr
