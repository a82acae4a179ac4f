"""The example drives a real environment through a real bundle."""

import subprocess
import sys
from pathlib import Path

import pytest

from msr_envs.ring_nav import RingNav
from msr_export import export_bundle
from msr_runtime.meta.checkpoint import load_checkpoint
from msr_runtime.meta.config import TrainConfig, TrainSettings
from msr_runtime.meta.learner import LearnerConfig
from msr_runtime.meta.trainer import MetaTrainer

EXAMPLE = Path(__file__).parents[2] / "examples" / "control_loop.py"


@pytest.fixture(scope="module")
def ring_bundle(tmp_path_factory) -> Path:
    """A bundle of a ring-nav network trained for a few outer steps."""
    folder = tmp_path_factory.mktemp("example")
    family = RingNav()
    learner = LearnerConfig(width=16, depth=2, filters=8)
    settings = TrainSettings(steps=20, validation_every=20, training_tasks=40, insist_on_augmentation=True)
    MetaTrainer(family, TrainConfig.of(family, "msr", learner, settings), folder / "run", progress=False).train()
    best = load_checkpoint(folder / "run")
    return export_bundle(
        best.learner,
        best.normalization,
        folder / "bundle",
        family=family,
        shots=10,
        seed=0,
        config_digest=best.digest,
    )


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
