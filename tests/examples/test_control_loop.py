"""examples/control_loop.py: adapts a bundle and drives the simulated robot with it."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "control_loop.py"


def test_example_adapts_drives_and_reports(ring_bundle) -> None:
    """It prints the losses, the report of the loop and how the drive ended."""
    done = subprocess.run(
        [sys.executable, EXAMPLE, ring_bundle, "1000"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "support loss" in done.stdout
    assert "ticks at 1000 Hz" in done.stdout
    assert "goal" in done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["control_loop.py", "online.py"])
def test_examples_drive_at_the_rate_of_the_manifest(ring_bundle: Path, name: str) -> None:
    """Without a rate they run at the 10 Hz that ring-nav bundles name, so a drive takes up to 25 s."""
    program = [sys.executable, EXAMPLE.with_name(name), ring_bundle]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "ticks at 10 Hz" in done.stdout


def test_example_without_a_bundle_says_how_it_is_used() -> None:
    """Without an argument it prints its usage on stderr and exits with 1."""
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "Usage" in done.stderr
