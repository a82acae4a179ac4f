"""The example drives a real environment through a real bundle."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "control_loop.py"


def test_example_adapts_drives_and_reports(ring_bundle) -> None:
    """It prints the losses, the loop's report and how the drive ended."""
    done = subprocess.run(
        [sys.executable, EXAMPLE, ring_bundle, "1000"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "support loss" in done.stdout
    assert "ticks at 1000 Hz" in done.stdout
    assert "goal" in done.stdout.splitlines()[-1]


def test_example_without_a_bundle_says_how_it_is_used() -> None:
    """No argument: the usage on stderr, exit code 1."""
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "Usage" in done.stderr
