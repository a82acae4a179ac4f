"""Fields that say how they turn, and families made of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from msr_envs.symmetry import DeclaredSymmetry, SymmetryGroup
from msr_runtime.representation import Representation
from msr_runtime.task import SPLITS, Field, Loss, Split, TaskBatch


def _field(shape: tuple[int, ...], representation: Representation | None, name: str = "part", **more: Any) -> Field:
    return Field(name=name, shape=shape, unit="1", low=-1.0, high=1.0, representation=representation, **more)


class _Gain(DeclaredSymmetry):
    """y is a gain times the first numbers of x. The gain is the task."""

    name: str = "gain"
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("all",)

    def __init__(self, symmetry: SymmetryGroup, inputs: Sequence[Field], outputs: Sequence[Field]) -> None:
        self.symmetry, self.inputs, self.outputs = symmetry, tuple(inputs), tuple(outputs)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        rng = np.random.default_rng([SPLITS.index(split), int(rng.integers(2**63))])
        sizes = [sum(field.size for field in fields) for fields in (self.inputs, self.outputs)]
        x = rng.uniform(-0.5, 0.5, (tasks, shots + queries, sizes[0])).astype(np.float32)
        y = (rng.uniform(0.5, 1.5, (tasks, 1, 1)) * x[..., : sizes[1]]).astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])


@pytest.fixture
def field() -> Callable[..., Field]:
    """A function that makes a field of numbers from -1 to 1: `field(shape, representation, name, ...)`."""
    return _field


@pytest.fixture
def gain() -> type[_Gain]:
    """A family in which y is x times a gain: `gain(symmetry, inputs, outputs)`."""
    return _Gain
