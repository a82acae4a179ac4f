"""Training tasks simulated once and drawn from many times, because a simulator is slower than an outer step."""

import numpy as np
from numpy.typing import NDArray

from msr_runtime.task import TaskBatch, TaskFamily, rows_a_sample


class TaskPool:
    """Many samples of many training tasks; `draw` picks small task batches out of them without repeats inside one.

    Arrays: support `(tasks, samples, *x)`, queries `(tasks, sets * samples, *x)`, one block a query set; of a
    StackedFamily there are `rows` times as many, and a sample's are drawn together.
    """

    def __init__(self, family: TaskFamily, rng: np.random.Generator, tasks: int, samples: int) -> None:
        self.sets, self.samples, self.rows = len(family.query_sets), samples, rows_a_sample(family)
        self.data = family.sample(rng, tasks, samples, self.sets * samples, "train")

    def draw(self, rng: np.random.Generator, tasks: int, shots: int, queries: int) -> TaskBatch:
        """Draw `(tasks, shots)` support and `(tasks, queries)` query samples, as many queries from each set."""
        chosen = rng.choice(len(self.data.support_x), tasks, replace=False)
        support = self._choose(rng, tasks, shots)
        parts = np.array_split(np.arange(queries), self.sets)
        blocks = [self._choose(rng, tasks, len(part)) + i * self.samples * self.rows for i, part in enumerate(parts)]
        query, rows = np.concatenate(blocks, axis=1), chosen[:, None]
        data = self.data
        return TaskBatch(
            data.support_x[rows, support],
            data.support_y[rows, support],
            data.query_x[rows, query],
            data.query_y[rows, query],
        )

    def _choose(self, rng: np.random.Generator, tasks: int, count: int) -> NDArray[np.int64]:
        samples = rng.random((tasks, self.samples)).argsort(axis=1)[:, :count]
        return (samples[:, :, None] * self.rows + np.arange(self.rows)).reshape(tasks, -1)
