"""The golden example is a task that float32 can compute: what rounding alone gets wrong says nothing about a graph."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from msr_export import golden
from msr_runtime.bundle.store import Golden
from msr_runtime.task import TaskBatch

SEED = 29
"""Its first task is one on which rounding grows, in a learner with high rates."""


@pytest.fixture
def unsteady(exporter):  # noqa: ANN201
    """A learner whose inner loop makes rounding errors large on many tasks."""
    return exporter.build("maml", "mse", inner_rate=0.5)


def _draw(exporter, learner, seed: int) -> Golden:
    return golden.draw_golden(learner, exporter.scaled, exporter.family, 6, seed)


def _own_error(exporter, learner, example: Golden) -> float:
    return golden._own_error(copy.deepcopy(learner).double(), exporter.scaled, example)


def test_a_task_that_float32_computes_badly_is_drawn_again(exporter, unsteady, monkeypatch) -> None:
    drawn = _draw(exporter, unsteady, SEED)
    assert _own_error(exporter, unsteady, drawn) <= 1e-6
    monkeypatch.setattr(golden, "OWN_ERROR", np.inf)
    first = _draw(exporter, unsteady, SEED)
    assert _own_error(exporter, unsteady, first) > 1e-6
    monkeypatch.setattr(golden, "OWN_ERROR", 0.0)
    best = _draw(exporter, unsteady, SEED)  # where none is good enough, the best one is taken
    assert _own_error(exporter, unsteady, best) <= _own_error(exporter, unsteady, drawn)


def test_the_first_task_is_taken_if_it_serves(exporter) -> None:
    """What is drawn after it would change the example for no reason."""
    batch = exporter.family.sample(np.random.default_rng(3), 1, 6, golden.SAMPLES, "validation")
    drawn = _draw(exporter, exporter.build("msr", "mse"), 3)
    np.testing.assert_array_equal(drawn.support_x, batch.support_x[0])
    np.testing.assert_array_equal(drawn.x, batch.query_x[0])


class Straight:
    """The tiny family, in which every other task stands still: all of its queries are one input."""

    def __init__(self, family: Any, x: NDArray) -> None:
        self._family, self._x, self._drawn = family, x, 0
        self.query_sets = family.query_sets

    def sample(self, *arguments: Any) -> TaskBatch:
        batch, self._drawn = self._family.sample(*arguments), self._drawn + 1
        return batch._replace(query_x=np.broadcast_to(self._x, batch.query_x.shape)) if self._drawn % 2 else batch


def test_a_task_whose_predictions_cancel_is_drawn_again(exporter) -> None:
    """A prediction near zero is what is left of terms near one: its relative error is that of their rounding."""
    learner, scaled = exporter.build("anil", "mse"), exporter.scaled.model_copy(update={"output_center": (0.0, 0.0)})
    batch = exporter.family.sample(np.random.default_rng(3), 1, 6, golden.SAMPLES, "validation")
    with torch.no_grad():
        adapted = learner.adapt(*map(torch.from_numpy, scaled.normalize(batch.support_x[0], batch.support_y[0])))
    x = torch.zeros(4)
    for _ in range(4):  # Newton's steps to where both predictions are nearly zero
        slope = torch.autograd.functional.jacobian(lambda x: learner(adapted, x[None])[0], x)
        x = x - torch.linalg.pinv(slope) @ learner(adapted, x[None])[0].detach()
    straight: Any = Straight(exporter.family, scaled.raw_x(x.numpy()))
    drawn = golden.draw_golden(learner, scaled, straight, 6, 3)
    assert len(np.unique(drawn.x, axis=0)) > 1
