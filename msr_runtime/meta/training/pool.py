"""The pool of training tasks. Tasks are simulated once and drawn often: a simulator is slower than an outer step."""

import numpy as np
from numpy.typing import NDArray

from msr_runtime.families import FiniteFamily, rows_per_sample, takes_windows
from msr_runtime.meta.training.drawing import draw_tasks
from msr_runtime.task import TaskBatch, TaskFamily


class TaskPool:
    """Many samples of many training tasks, from which `draw` picks small batches.

    `data.support_x` is `(tasks, samples, *x)` and `data.query_x` is `(tasks, sets * samples, *x)`, with one block of
    samples per query set. A `StackedFamily` has `rows` rows per sample, which are drawn together.

    A family with few examples per task (see `examples_to_share`) cannot fill both. Then the pool holds all examples of
    each task, and `draw` splits them anew each time.

    The pool of a family of consecutive samples (see `takes_windows`) holds whole windows. `draw` takes the last support
    samples and the first queries of each.

    Args:
        family: The family. Tasks of its split `train` are simulated.
        rng: Source of every random draw of the simulation.
        tasks: Number of tasks.
        samples: Samples per task for the support set, and as many for each query set.
        window: Support samples, and queries of each query set, of a window.

    """

    def __init__(
        self,
        family: TaskFamily,
        rng: np.random.Generator,
        tasks: int,
        samples: int,
        window: tuple[int, int] | None = None,
    ) -> None:
        self.sets, self.samples, self.rows = len(family.query_sets), samples, rows_per_sample(family)
        self.shared, self.window = examples_to_share(family, samples), window if takes_windows(family) else None
        shots, queries = (1, self.shared - 1) if self.shared else self.window or (samples, samples)
        queries *= 1 if self.shared else self.sets
        self.data = draw_tasks(family, rng, tasks, shots, queries, "train")
        if self.shared:
            support_x, support_y, query_x, query_y = self.data
            x, y = np.concatenate([support_x, query_x], 1), np.concatenate([support_y, query_y], 1)
            self.data = TaskBatch(x, y, x, y)

    def draw(self, rng: np.random.Generator, tasks: int, shots: int, queries: int) -> TaskBatch:
        """Draw a batch with `(tasks, shots)` support samples and `(tasks, queries)` query samples.

        No task and no sample repeats within a batch. The query sets share the queries equally; if the number does not
        divide, the first sets get one more. If tasks have too few examples for all queries, there are fewer queries.
        """
        chosen = rng.choice(len(self.data.support_x), tasks, replace=False)
        if self.shared:
            order = rng.random((tasks, self.shared)).argsort(axis=1)
            support, query = order[:, :shots], order[:, shots : shots + queries]
        elif self.window:
            support, query = self._next_to_each_other(tasks, shots, queries)
        else:
            support = self._choose(rng, tasks, shots)
            parts = np.array_split(np.arange(queries), self.sets)
            blocks = [
                self._choose(rng, tasks, len(part)) + i * self.samples * self.rows for i, part in enumerate(parts)
            ]
            query = np.concatenate(blocks, axis=1)
        rows, data = chosen[:, None], self.data
        return TaskBatch(
            data.support_x[rows, support],
            data.support_y[rows, support],
            data.query_x[rows, query],
            data.query_y[rows, query],
        )

    def _next_to_each_other(self, tasks: int, shots: int, queries: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        held, block = self.window or (0, 0)
        parts = [len(part) for part in np.array_split(np.arange(queries), self.sets)]
        query = np.concatenate([i * block + np.arange(count) for i, count in enumerate(parts)])
        return np.tile(np.arange(held - shots, held), (tasks, 1)), np.tile(query, (tasks, 1))

    def _choose(self, rng: np.random.Generator, tasks: int, count: int) -> NDArray[np.int64]:
        # sorting random keys draws without repeats for all tasks at once; `rng.choice` could do it for one task only
        samples = rng.random((tasks, self.samples)).argsort(axis=1)[:, :count]
        return (samples[:, :, None] * self.rows + np.arange(self.rows)).reshape(tasks, -1)


def examples_to_share(family: TaskFamily, samples: int) -> int | None:
    """Return the examples of each task, if they are too few for `samples` support samples and as many per query set.

    None if there are enough, or as many as one wants, or if they are taken in windows.
    """
    if takes_windows(family):
        return None
    enough = samples * (1 + len(family.query_sets))
    return family.examples if isinstance(family, FiniteFamily) and family.examples < enough else None
