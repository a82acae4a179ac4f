"""The family that the tutorial shows keeps the contract, and its group is a symmetry of each of its tasks."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from msr_envs import load_family
from msr_runtime.meta import check_augmentation

EXAMPLE = Path(__file__).parents[2] / "examples" / "four_eyes.py"


def test_example_checks_itself() -> None:
    """It ends with a sentence, and with an error if the contract is broken."""
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "keeps the contract" in done.stdout


def test_its_group_is_a_symmetry_of_each_task() -> None:
    report = check_augmentation(load_family(f"{EXAMPLE}:FourEyes"), np.random.default_rng(0))
    assert report.accepted
    assert report.ratio < 1, "copies of a task's own samples help to learn it"
