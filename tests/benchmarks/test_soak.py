"""benchmarks/soak.py, in short: every update, sample and action is counted, and memory does not grow."""

import json
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_a_short_soak_loses_nothing(ring_bundle: Path, tmp_path: Path) -> None:
    """It exits with 0 only if its counts add up; the test checks them again."""
    rates = ["--hz", "4000", "--adapt-hz", "400", "--ticks", "3000"]
    done = subprocess.run(
        [sys.executable, SOAK, "--bundle", ring_bundle, "--json", tmp_path / "soak.json", *rates],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    adapting, still = json.loads((tmp_path / "soak.json").read_text())["rows"]
    assert adapting["ticks"] == still["ticks"] == 3000
    assert adapting["tried"] == adapting["accepted"] + sum(adapting["refused"].values()) > 0
    left_out = adapting["left_out"]
    assert adapting["observed"] == adapting["entered"] + sum(left_out.values()) + adapting["dropped"]
    # Every 997th and every 1999th is not finite. A slow machine may drop samples before they are looked at.
    for reason, sent in (("not finite", 4), ("absurd", 1)):
        assert sent - adapting["dropped"] <= left_out.get(reason, 0) <= sent
    assert still["tried"] == 0
    for row in (adapting, still):
        assert row["latched"] >= row["dead"] == 1  # a slow machine may make more observations stale
        assert row["actions_refused"]["latched"] > 0
