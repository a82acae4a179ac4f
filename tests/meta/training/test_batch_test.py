"""The test whether samples depend on how many are asked for."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from msr_envs.registry import load_family
from msr_runtime.meta.training.batch_test import BatchReport, check_batches
from msr_runtime.task import TaskBatch


def found(family: Any) -> BatchReport:
    report = check_batches(family, np.random.default_rng(0))
    assert report is not None
    return report


@pytest.mark.parametrize("name", ["ring-nav", "hex-drive", "quadrotor"])
def test_the_built_in_robots_do_not_care(name: str) -> None:
    """A task is the same, whoever is drawn with it."""
    assert not found(load_family(name)).depends


def laid_out(batch: TaskBatch) -> TaskBatch:
    """Gains from one end of their range to the other, so that a single task always has the smallest."""
    gains = np.linspace(0.5, 4.0, len(batch.support_x), dtype=np.float32)[:, None, None]
    return batch._replace(support_y=gains * batch.support_x, query_y=gains * batch.query_x)


def centered(batch: TaskBatch) -> TaskBatch:
    """Each support set without its mean, which leaves nothing of a single sample."""
    return batch._replace(support_x=batch.support_x - batch.support_x.mean(1, keepdims=True))


def shrunk(batch: TaskBatch) -> TaskBatch:
    """Divided by how many tasks there are."""
    return TaskBatch(*(part / len(part) for part in batch))


@pytest.mark.parametrize(
    ("wrong", "field", "asked"),
    [
        (laid_out, "speed", "drawn one by one"),
        (centered, "push", "support sets of 24 samples and of one"),
        (shrunk, "push", "drawn one by one"),
    ],
)
def test_samples_that_depend_on_the_batch_are_found(
    training, wrong: Callable[[TaskBatch], TaskBatch], field: str, asked: str
) -> None:
    """With the field, what was asked for, and the likely cause."""

    class Wrong(training.Plane):
        def sample(self, *call: object) -> TaskBatch:
            return wrong(super().sample(*call))

    report = found(Wrong())
    assert report.depends
    assert asked in report.doubt()
    assert "np.linspace" in report.doubt()
    assert wrong is shrunk or report.field == field


def test_recorded_samples_are_there_before_anybody_asks(training) -> None:
    """So they cannot depend on it."""
    plane = training.Plane()
    known = {name: getattr(plane, name) for name in ("name", "inputs", "outputs", "loss", "sample", "augment")}
    recorded: Any = SimpleNamespace(**known, query_sets=("all",), examples=40)
    assert check_batches(recorded, np.random.default_rng(0)) is None
