"""A tiny real family, and a trainer set up on it; child processes import this file too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_runtime.meta.config import TrainConfig, TrainSettings
from msr_runtime.meta.learner import LearnerConfig
from msr_runtime.meta.trainer import MetaTrainer
from msr_runtime.task import SPLITS, Field, Group, Loss, Split, TaskBatch, TaskFamily


class Plane:
    """A push in the plane through a gain and a turn, both unknown: symmetric under quarter turns (C4)."""

    name = "plane"
    inputs: tuple[Field, ...] = (Field(name="push", shape=(2,), unit="N", low=-9.0, high=9.0),)
    outputs: tuple[Field, ...] = (Field(name="speed", shape=(2,), unit="m/s", low=-9.0, high=9.0),)
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("all",)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw tasks; the split is part of the seed."""
        rng = np.random.default_rng([SPLITS.index(split), int(rng.integers(2**63))])
        gain, turn = rng.uniform(0.5, 2.0, (tasks, 1)), rng.uniform(0, 2 * np.pi, (tasks, 1))
        x = rng.normal(size=(tasks, shots + queries, 2))
        a, b = gain * np.cos(turn), gain * np.sin(turn)
        y = np.stack([a * x[..., 0] - b * x[..., 1], b * x[..., 0] + a * x[..., 1]], -1).astype(np.float32)
        x = x.astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Turn each example by a random number of quarters."""
        group, element = self.group(), rng.integers(4, size=x.shape[:-1])
        return (
            np.einsum("...ij,...j->...i", group.inputs.astype(x.dtype)[element], x),
            np.einsum("...ij,...j->...i", group.outputs.astype(y.dtype)[element], y),
        )

    def group(self) -> Group:
        """C4 on both vectors."""
        quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
        turns = np.stack([np.linalg.matrix_power(quarter, power) for power in range(4)])
        return Group("C4", turns, turns)


SMALL = LearnerConfig(width=8, depth=1, filters=6, inner_steps=2)


def make_trainer(
    run: Path,
    family: TaskFamily | None = None,
    *,
    learner: LearnerConfig = SMALL,
    resume: bool = False,
    **changes: Any,
) -> MetaTrainer:
    """A trainer of a small MSR: 40 outer steps, validated every 20, the symmetry taken on trust to save time."""
    family = family or Plane()
    config = TrainConfig.of(
        family,
        "msr",
        learner,
        TrainSettings.model_validate(
            {"steps": 40, "tasks_per_step": 4, "shots": 5, "queries": 8, "training_tasks": 16, "samples_per_task": 16}
            | {"validation_tasks": 8, "validation_every": 20, "insist_on_augmentation": True}
            | changes
        ),
    )
    return MetaTrainer(family, config, run, resume=resume, progress=False)


class Training:
    """What tests use of this file: test modules cannot import it."""

    Plane = Plane
    folder = Path(__file__).parent
    trainer: Callable[..., MetaTrainer] = staticmethod(make_trainer)


@pytest.fixture(scope="session")
def training() -> Training:
    """A tiny family and a trainer on it."""
    return Training()
