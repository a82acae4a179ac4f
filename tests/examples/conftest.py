"""What the programs are run on."""

from pathlib import Path

import pytest

from msr_envs.ring_nav import RingNav
from msr_export import export_bundle
from msr_runtime.meta.checkpoint import load_checkpoint
from msr_runtime.meta.config import TrainConfig, TrainSettings
from msr_runtime.meta.learner import LearnerConfig
from msr_runtime.meta.trainer import MetaTrainer


@pytest.fixture(scope="session")
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
