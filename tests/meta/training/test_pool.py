"""The pool of training tasks, for families that have few examples of each task."""

from typing import Any

import numpy as np
import pytest

from msr_runtime.errors import TrainingError
from msr_runtime.meta.training.pool import TaskPool, examples_to_share
from msr_runtime.meta.training.preflight import require_pool
from msr_runtime.meta.training.preparation import prepare


@pytest.fixture
def finite(training) -> Any:
    """Make a family with so many examples per task."""

    class Finite(training.Plane):
        def __init__(self, examples: int) -> None:
            self.examples = examples

        def sample(self, rng, tasks, shots, queries, split) -> Any:
            batch = super().sample(rng, tasks, shots, self.examples - shots, split)
            query = np.arange(queries) % (self.examples - shots)  # as recorded data repeats them
            return batch._replace(query_x=batch.query_x[:, query], query_y=batch.query_y[:, query])

    return Finite


def distinct(samples: np.ndarray) -> int:
    return len({row.tobytes() for row in samples})


@pytest.mark.parametrize(("examples", "shots", "queries"), [(66, 10, 32), (20, 1, 19), (20, 12, 8), (2, 1, 1)])
def test_few_examples_are_split_anew_in_each_draw(finite, examples: int, shots: int, queries: int) -> None:
    """All of them become queries in the course of the training, and none is in both sets of a draw."""
    pool = TaskPool(finite(examples), np.random.default_rng(0), 2, 64)
    rng, seen = np.random.default_rng(1), [set(), set()]
    for _ in range(200):
        batch = pool.draw(rng, 2, shots, 32)
        assert (batch.support_x.shape[1], batch.query_x.shape[1]) == (shots, queries)
        for support, query in zip(batch.support_x, batch.query_x, strict=True):
            assert distinct(np.concatenate([support, query])) == shots + queries
            seen[0] |= {row.tobytes() for row in support}
            seen[1] |= {row.tobytes() for row in query}
    assert [len(rows) for rows in seen] == [2 * examples] * 2


def test_each_x_keeps_its_own_y(finite) -> None:
    """Each task is a linear map, so the samples of a draw have one."""
    batch = TaskPool(finite(20), np.random.default_rng(0), 2, 64).draw(np.random.default_rng(1), 2, 5, 15)
    for task in range(2):
        matrix = np.linalg.lstsq(batch.support_x[task], batch.support_y[task])[0]
        np.testing.assert_allclose(batch.query_x[task] @ matrix, batch.query_y[task], atol=1e-4)


def test_enough_examples_are_drawn_as_from_a_simulator(finite, training) -> None:
    """A support pool and a query pool of 16 each: 32 examples and more fill both."""
    assert [examples_to_share(finite(n), 16) for n in (31, 32, 500)] == [31, None, None]
    assert examples_to_share(training.Plane(), 16) is None


def test_shots_that_leave_no_query_are_refused(finite, training) -> None:
    """A task of twenty examples can be split 19 + 1, and not 20 + 0."""
    family = finite(20)
    require_pool(family, training.config(family, shots=19).settings)
    with pytest.raises(TrainingError, match="shots is 20, but each task of family 'plane' has 20 examples"):
        require_pool(family, training.config(family, shots=20).settings)


def test_the_preparation_says_how_examples_are_used(finite, training) -> None:
    """How many there are, and how many a step takes for each set."""
    family = finite(20)
    text = str(prepare(family, training.config(family, shots=15, augment=False), progress=False))
    assert "training      16 tasks of 20 examples; a step takes 15 and 5 as queries" in text
