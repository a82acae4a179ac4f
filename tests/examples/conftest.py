"""A small bundle for the example programs."""

from pathlib import Path

import pytest

from msr_envs.ring_nav import RingNav
from msr_export import export_checkpoint
from msr_runtime.meta import LearnerConfig, TrainConfig, TrainSettings, load_checkpoint, train


@pytest.fixture(scope="session")
def ring_bundle(tmp_path_factory) -> Path:
    """The bundle of a ring-nav network that was trained for a few outer steps."""
    folder = tmp_path_factory.mktemp("example")
    family = RingNav()
    learner = LearnerConfig(width=16, depth=2, filters=8)
    settings = TrainSettings(steps=20, validation_every=20, training_tasks=40, insist_on_augmentation=True)
    train(family, TrainConfig.of(family, "msr", learner, settings), folder / "run", progress=False)
    return export_checkpoint(load_checkpoint(folder / "run"), folder / "bundle", family=family)
