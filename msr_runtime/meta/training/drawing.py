"""Draw tasks from a family, and check that it gave as many as were asked for."""

import numpy as np

from msr_runtime.errors import FamilyError
from msr_runtime.families import rows_per_sample
from msr_runtime.task import Split, TaskBatch, TaskFamily


def draw_tasks(
    family: TaskFamily, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split
) -> TaskBatch:
    """Return `family.sample(rng, tasks, shots, queries, split)`.

    Raises:
        FamilyError: It is not a `TaskBatch`, an array of it has fewer or more tasks or samples than was asked for, or a
            number in it is not finite.

    """
    batch = family.sample(rng, tasks, shots, queries, split)
    call = f"family '{family.name}': sample(rng, {tasks}, {shots}, {queries}, '{split}')"
    if not isinstance(batch, TaskBatch):
        raise FamilyError(
            f"{call} returned a {type(batch).__name__}, but a TaskBatch is wanted; end it with "
            "`return TaskBatch(support_x, support_y, query_x, query_y)`"
        )
    for name, array in batch._asdict().items():
        wanted = (tasks, (shots if name.startswith("support") else queries) * rows_per_sample(family))
        if not isinstance(array, np.ndarray) or array.shape[:2] != wanted:
            raise FamilyError(
                f"{call} gave {name} the shape {np.shape(array)}, but a numpy array is wanted whose first two axes are "
                f"{wanted}, tasks and samples; correct `sample`"
            )
        if not np.isfinite(array).all():
            task = int(np.flatnonzero(~np.isfinite(array).reshape(tasks, -1).all(1))[0])
            raise FamilyError(
                f"{call} put {array[~np.isfinite(array)][0]} into {name} of task {task}, but every value must be "
                "finite; the likely cause is a division by zero, or a simulation that blows up for some tasks: draw "
                "them from narrower ranges"
            )
    return batch
