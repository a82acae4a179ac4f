"""Tasks with few examples: all of them are used, and none is in the support set and the query set of one step."""

from pathlib import Path

import numpy as np
import pytest

from msr_envs import load_family
from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.pool import TaskPool
from msr_runtime.meta.training.preparation import prepare
from msr_runtime.task import Field, Loss, TaskBatch, TaskFamily

TASKS = 6


def recorded(folder: Path, examples: int) -> TaskFamily:
    """Recorded data whose x is the number of the example. The name of the task does not matter."""
    x = np.tile(np.arange(examples, dtype=np.float32)[None, :, None], (TASKS, 1, 1))
    np.savez(folder / "drive.npz", x=x, y=x)
    return load_family(str(folder / "drive.npz"))


@pytest.mark.parametrize(("examples", "shots", "queries"), [(66, 10, 32), (20, 1, 19), (20, 19, 1), (127, 10, 32)])
def test_every_example_can_be_drawn_for_both_sides(tmp_path: Path, examples: int, shots: int, queries: int) -> None:
    """With 64 samples per task asked for, which 66 examples cannot give twice. Each draw splits the examples anew."""
    pool = TaskPool(recorded(tmp_path, examples), np.random.default_rng(0), 4, 64)
    rng, seen = np.random.default_rng(1), [set(), set()]
    for _ in range(400):
        batch = pool.draw(rng, 2, shots, queries)
        assert (batch.support_x.shape, batch.query_x.shape) == ((2, shots, 1), (2, queries, 1))
        for support, query in zip(batch.support_x[..., 0], batch.query_x[..., 0], strict=True):
            assert len({*support, *query}) == shots + queries
        for side, array in zip(seen, (batch.support_x, batch.query_x), strict=True):
            side.update(array.ravel())
    assert seen[0] == seen[1] == set(range(examples))


def test_fewer_queries_are_drawn_where_examples_run_out(tmp_path: Path) -> None:
    """The preparation says how a step splits the examples."""
    family = recorded(tmp_path, 20)
    pool = TaskPool(family, np.random.default_rng(0), 4, 64)
    assert pool.draw(np.random.default_rng(0), 2, 15, 32).query_x.shape == (2, 5, 1)
    settings = TrainSettings(training_tasks=4, tasks_per_step=2, shots=15, validation_tasks=1, augment=False)
    config = TrainConfig.of(family, "maml", LearnerConfig(width=4, depth=1), settings)
    assert "of 20 examples; a step takes 15 and 5 as queries" in str(prepare(family, config, progress=False))


def test_no_query_left_is_refused(tmp_path: Path) -> None:
    """The message names the family, its examples and the option."""
    family = recorded(tmp_path, 10)
    config = TrainConfig.of(family, "maml", LearnerConfig(), TrainSettings(augment=False))
    with pytest.raises(
        TrainingError, match=r"shots is 10, but each task of family '.*' has 10 examples.*--settings.shots"
    ):
        prepare(family, config, progress=False)


class _Stream:
    """Consecutive samples whose x counts the moments of a window: the support up to 99, and the queries from 100 on."""

    name, query_sets, examples, consecutive = "stream", ("all",), 40, True
    loss: Loss = "mse"
    inputs = outputs = (Field(name="moment", shape=(1,), unit="1", low=0, high=200),)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: str) -> TaskBatch:
        moments = np.arange(100 - shots, 100 + queries, dtype=np.float32)[None, :, None].repeat(tasks, 0)
        return TaskBatch(*[moments[:, :shots]] * 2, *[moments[:, shots:]] * 2)

    def augment(self, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x, y

    def last_value(self, support_y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return x


def test_a_stream_keeps_its_order() -> None:
    """Support and queries stay next to each other, also where a step takes fewer of them."""
    settings = TrainSettings(training_tasks=4, tasks_per_step=2, shots=30, queries=9, validation_tasks=1, augment=False)
    prepared = prepare(
        _Stream(), TrainConfig.of(_Stream(), "maml", LearnerConfig(width=4, depth=1), settings), progress=False
    )
    assert "in windows: 30 consecutive samples, and the 9 that follow as queries" in str(prepared)
    assert isinstance(prepared.pool, TaskPool)
    for shots in (30, 12):
        batch = prepared.pool.draw(np.random.default_rng(0), 2, shots, 9)
        for task in range(2):
            assert batch.support_x[task, :, 0].tolist() == list(range(100 - shots, 100))
            assert batch.query_y[task, :, 0].tolist() == list(range(100, 109))
