"""What the paper's synthetic problems share: each task is a linear map whose weight is drawn from one linear space.

They are problems for Algorithm 1: the symmetry has to be found from un-augmented queries. Because the space is known,
what U spans can be compared with it exactly.

Source: Zhou, Knowles, Finn, "Meta-Learning Symmetries by Reparameterization", ICLR 2021, and its public code.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, Field, Loss, Split, TaskBatch


class LinearTasks(ABC):
    """Tasks y = W x with x ~ N(0, 1) and W drawn from `filter_space()`; they have no state.

    All of a problem's samples have the same distribution, so there is one query set.
    """

    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("all",)

    def __init__(self, name: str, inputs: Field, outputs: Field, noise: float = 0.0) -> None:
        self.name: str = name
        self.inputs: tuple[Field, ...] = (inputs,)
        self.outputs: tuple[Field, ...] = (outputs,)
        self.noise = noise
        """Standard deviation of the noise on the support's y; queries have none, so that their error is the map's."""

    @abstractmethod
    def weights(self, rng: np.random.Generator, tasks: int) -> NDArray[np.float64]:
        """Draw the weights of `tasks` tasks: `(tasks, *weight)`."""

    @abstractmethod
    def respond(self, weight: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The map of one task, `weight` `(*weight)`, on x `(examples, *x)`: y `(examples, *y)` without noise."""

    @abstractmethod
    def filter_space(self) -> NDArray[np.float64]:
        """Orthonormal basis `(weight.numel(), dimensions)` of the space that the flattened weights fill, C order."""

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Fresh tasks: x `(tasks, shots or queries, *x)`, y `(tasks, shots or queries, *y)`, float32.

        The weights are drawn first, by `weights(split_generator(...), tasks)`.

        Raises:
            FamilyError: if `split` is unknown.
        """
        rng = split_generator(self.name, rng, split)
        weights = self.weights(rng, tasks)
        x = rng.standard_normal((tasks, shots + queries, *self.inputs[0].shape), dtype=np.float32)
        y = np.empty((tasks, shots + queries, *self.outputs[0].shape), np.float32)
        for weight, task_x, task_y in zip(weights, x, y, strict=True):  # one at a time: images take memory
            task_y[:] = self.respond(weight, task_x.astype(np.float64))
        if self.noise:
            y[:, :shots] += np.float32(self.noise) * rng.standard_normal(y[:, :shots].shape, dtype=np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:  # noqa: ARG002
        """Return x and y unchanged: no augmentation belongs to these problems (train with `augment=False`)."""
        return x, y


def split_generator(family: str, rng: np.random.Generator, split: Split) -> np.random.Generator:
    """A generator of its own for each split, so that equal states of `rng` still give different tasks.

    Raises:
        FamilyError: naming the family, if `split` is unknown.
    """
    if split not in SPLITS:
        raise FamilyError(f"{family}: split '{split}' is unknown; use one of {', '.join(SPLITS)}.")
    return np.random.default_rng([SPLITS.index(split), *rng.integers(2**32, size=4)])
