"""A tiny family and a trainer for it. Child processes import this file too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.preparation import prepare
from msr_runtime.meta.training.run import open_run
from msr_runtime.meta.training.trainer import MetaTrainer
from msr_runtime.task import SPLITS, Field, Group, Loss, Split, TaskBatch, TaskFamily


class Plane:
    """y is x, scaled by an unknown gain and turned by an unknown angle. C4 is a symmetry of each task."""

    name = "plane"
    inputs: tuple[Field, ...] = (Field(name="push", shape=(2,), unit="N", low=-9.0, high=9.0),)
    outputs: tuple[Field, ...] = (Field(name="speed", shape=(2,), unit="m/s", low=-9.0, high=9.0),)
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("all",)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw tasks. The split is part of the seed."""
        rng = np.random.default_rng([SPLITS.index(split), int(rng.integers(2**63))])
        gain, turn = rng.uniform(0.5, 2.0, (tasks, 1)), rng.uniform(0, 2 * np.pi, (tasks, 1))
        x = rng.normal(size=(tasks, shots + queries, 2))
        a, b = gain * np.cos(turn), gain * np.sin(turn)
        y = np.stack([a * x[..., 0] - b * x[..., 1], b * x[..., 0] + a * x[..., 1]], -1).astype(np.float32)
        x = x.astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Turn each sample by a random number of quarter turns."""
        group, element = self.group(), rng.integers(4, size=x.shape[:-1])
        return (
            np.einsum("...ij,...j->...i", group.inputs.astype(x.dtype)[element], x),
            np.einsum("...ij,...j->...i", group.outputs.astype(y.dtype)[element], y),
        )

    def group(self) -> Group:
        """Return C4 on both vectors."""
        quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
        turns = np.stack([np.linalg.matrix_power(quarter, power) for power in range(4)])
        return Group("C4", turns, turns)


SMALL = LearnerConfig(width=8, depth=1, filters=6, rule="gradient", inner_steps=2)


def make_config(family: TaskFamily, *, learner: LearnerConfig = SMALL, **changes: Any) -> TrainConfig:
    """A small MSR run: 40 outer steps, validated every 20. To save time, the augmentation is not tested."""
    settings = {
        "steps": 40,
        "tasks_per_step": 4,
        "shots": 5,
        "queries": 8,
        "training_tasks": 16,
        "samples_per_task": 16,
    }
    settings |= {"validation_tasks": 8, "validation_every": 20, "insist_on_augmentation": True}
    return TrainConfig.of(family, "msr", learner, TrainSettings.model_validate(settings | changes))


def make_trainer(
    run: Path,
    family: TaskFamily | None = None,
    *,
    learner: LearnerConfig = SMALL,
    resume: bool = False,
    **changes: Any,
) -> MetaTrainer:
    """A trainer of the run that `make_config` describes."""
    family = family or Plane()
    config = make_config(family, learner=learner, **changes)
    opened = open_run(run, config, resume=resume)
    prepared = prepare(family, config, saved=opened.saved, progress=False)
    return MetaTrainer(prepared, opened, progress=False)


class Training:
    """What tests use from this file. A test module cannot import `conftest`."""

    Plane = Plane
    folder = Path(__file__).parent
    config: Callable[..., TrainConfig] = staticmethod(make_config)
    trainer: Callable[..., MetaTrainer] = staticmethod(make_trainer)


@pytest.fixture(scope="session")
def training() -> Training:
    """The tiny family and its trainer."""
    return Training()
