"""examples/record.py: records a drive and replays the recording."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "record.py"


def test_example_records_and_replays(ring_bundle: Path, tmp_path: Path) -> None:
    """No message is dropped, and the replay gives every action of the drive."""
    done = subprocess.run(
        [sys.executable, EXAMPLE, ring_bundle, tmp_path / "flight.mcap", "250"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    written, replayed = done.stdout.splitlines()
    assert written.endswith("0 dropped")
    actions, adaptations = (int(replayed.split()[index]) for index in (0, 3))
    assert actions > 20
    assert adaptations > 0
    assert replayed.endswith("0 actions differ")


def test_example_without_a_bundle_says_how_it_is_used() -> None:
    """Without an argument it prints its usage on stderr and exits with 1."""
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "Usage" in done.stderr
