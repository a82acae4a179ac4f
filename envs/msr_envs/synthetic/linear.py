"""The base of the paper's synthetic problems: each task is a linear map with a weight from one linear space.

They are problems for Algorithm 1, which must find the symmetry from queries that are not augmented. The space is known,
so the space that the columns of U span can be compared with it exactly.

Source: Zhou, Knowles, Finn, "Meta-Learning Symmetries by Reparameterization", ICLR 2021, and its public code.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from msr_envs.splits import split_generator
from msr_runtime.task import Field, Loss, Split, TaskBatch


class LinearTasks(ABC):
    """Tasks y = W x, with x drawn from N(0, 1) and W drawn from `filter_space()`. The object has no state.

    All samples of a problem have the same distribution, so there is one query set.

    Args:
        name: The family's name.
        inputs: The field of x.
        outputs: The field of y.
        noise: Standard deviation of the noise on the y of the support set.

    """

    loss: Loss = "mse"
    shared_scale = True
    query_sets: tuple[str, ...] = ("all",)

    def __init__(self, name: str, inputs: Field, outputs: Field, noise: float = 0.0) -> None:
        self.name: str = name
        self.inputs: tuple[Field, ...] = (inputs,)
        self.outputs: tuple[Field, ...] = (outputs,)
        self.noise = noise
        """Standard deviation of the noise on the y of the support set. Queries have no noise, so that the query error
        is the error of the map."""

    @abstractmethod
    def weights(self, rng: np.random.Generator, tasks: int) -> NDArray[np.float64]:
        """Draw the weights of `tasks` tasks: `(tasks, *weight)`."""

    @abstractmethod
    def respond(self, weight: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Apply one task's map, `weight` `(*weight)`, to x `(examples, *x)`. Returns y `(examples, *y)`, no noise."""

    @abstractmethod
    def filter_space(self) -> NDArray[np.float64]:
        """Return an orthonormal basis of the space of all tasks' weights, `(numbers in a weight, dimensions)`.

        The weights are flattened in C order.
        """

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw new tasks.

        The weights are drawn first, by `weights(split_generator(...), tasks)`. A test can thus draw the same weights.

        Returns:
            x `(tasks, shots or queries, *x)` and y `(tasks, shots or queries, *y)`, float32.

        Raises:
            FamilyError: `split` is unknown.

        """
        rng = split_generator(self.name, rng, split)
        weights = self.weights(rng, tasks)
        x = rng.standard_normal((tasks, shots + queries, *self.inputs[0].shape), dtype=np.float32)
        y = np.empty((tasks, shots + queries, *self.outputs[0].shape), np.float32)
        for weight, task_x, task_y in zip(weights, x, y, strict=True):  # one task at a time: images need much memory
            task_y[:] = self.respond(weight, task_x.astype(np.float64))
        if self.noise:
            y[:, :shots] += np.float32(self.noise) * rng.standard_normal(y[:, :shots].shape, dtype=np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:  # noqa: ARG002
        """Return x and y unchanged: these problems have no augmentation. Train with `augment=False`."""
        return x, y
