"""The example records a drive, and the recording alone gives it again."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "record.py"


def test_example_records_and_replays(ring_bundle: Path, tmp_path: Path) -> None:
    """Nothing was dropped, and every action came out the same again."""
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
    """No argument: the usage on stderr, exit code 1."""
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "Usage" in done.stderr
