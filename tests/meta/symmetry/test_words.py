"""A group in words: what its generators do to each field."""

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs.groups import direct_sum, rotation, shift
from msr_runtime.meta.symmetry import in_words
from msr_runtime.task import Field, Group


def _fields(**sizes: int) -> tuple[Field, ...]:
    return tuple(Field(name=name, shape=(n,), unit="1", low=-1, high=1) for name, n in sizes.items())


def _mirror(matrix: NDArray) -> Group:
    """Two elements: the identity, and one that is its own inverse. It negates y."""
    return Group("C2", np.stack([np.eye(len(matrix)), matrix]), np.array([[[1.0]], [[-1.0]]]))


def test_each_generator_has_a_line() -> None:
    """The turn and the mirror of D4, of which all others are products. What stays is not named."""
    flip = np.diag([1.0, -1.0])
    quarter = rotation(4)
    group = Group("D4", np.concatenate([quarter, quarter @ flip]), np.concatenate([quarter, quarter @ flip]))
    assert in_words(group, _fields(goal=2), _fields(move=2)) == (
        "goal turned by 90°; of the outputs: move turned by 90°",
        "goal negated in 1; of the outputs: move negated in 1",
    )
    still = Group("C4", direct_sum(quarter, shift(4)), np.ones((4, 1, 1)))
    assert in_words(still, _fields(goal=2, range=4), _fields(speed=1)) == ("goal turned by 90°, range shifted by 1",)


@pytest.mark.parametrize(
    ("matrix", "fields", "words"),
    [
        (np.diag([-1.0, -1.0, -1.0]), {"load": 3}, "load negated"),
        (np.diag([1.0, -1.0, -1.0, 1.0]), {"load": 4}, "load negated in 1, 2"),
        (np.eye(4)[[1, 0, 3, 2]], {"legs": 4}, "legs permuted"),
        (np.eye(4)[[1, 0, 3, 2]], {"left": 2, "right": 2}, "left permuted, right permuted"),
        (np.eye(4)[[2, 3, 0, 1]], {"left": 2, "right": 2}, "left moved to right, right moved to left"),
        (np.array([[0.0, -1.0, 0], [-1.0, 0, 0], [0, 0, 1]]), {"legs": 3}, "legs permuted and negated"),
        (np.array([[0.6, 0.8], [0.8, -0.6]]), {"goal": 2}, "goal mirrored"),
        (np.diag([-1.0, -1.0, 1.0]), {"goal": 3}, "goal turned by 180°"),
        (np.eye(2), {"goal": 2}, "x as it is"),
    ],
)
def test_what_a_matrix_does_to_a_field(matrix: NDArray, fields: dict[str, int], words: str) -> None:
    """In the fewest words that tell it from others."""
    assert in_words(_mirror(matrix), _fields(**fields), _fields(speed=1)) == (
        f"{words}; of the outputs: speed negated",
    )
