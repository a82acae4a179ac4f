"""A group that is written by hand is compared with what the fields say of it."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs.checking import check_family
from msr_envs.checking.declaration import contradiction
from msr_envs.groups import direct_sum, random_action, rotation, shift, trivial
from msr_envs.symmetry import Angle, Parts, Pseudoscalar, Pseudovector, Ring, Scalar, Vector
from msr_runtime.errors import FamilyWarning
from msr_runtime.task import SPLITS, Field, Group, Loss, Split, TaskBatch

FLIP, KEEP = np.stack([np.eye(1), -np.eye(1)]), np.stack([np.eye(1)] * 2)
SWAP = np.stack([np.eye(2), np.eye(2)[::-1]])
SIDEWAYS = np.stack([np.eye(2), np.diag([1.0, -1.0])])


def field(name: str, size: int, said: Any) -> Field:
    return Field(name=name, shape=(size,), unit="1", low=-3, high=3, representation=said)


class ByHand:
    """A family with a group of its own. Its y are zeros, which every group turns into zeros."""

    name, query_sets = "by-hand", ("all",)
    loss: Loss = "mse"

    def __init__(self, group: Group, inputs: list[Field], outputs: list[Field]) -> None:
        self._group, self.inputs, self.outputs = group, tuple(inputs), tuple(outputs)

    def group(self) -> Group:
        """Return the given group."""
        return self._group

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw x."""
        rng = np.random.default_rng([SPLITS.index(split), *rng.integers(2**32, size=4)])
        x = rng.uniform(-1, 1, (tasks, shots + queries, self._group.inputs.shape[-1])).astype(np.float32)
        y = np.zeros((*x.shape[:2], self._group.outputs.shape[-1]), np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Move each sample by an element."""
        return random_action(self._group, rng, x, y)


WHEELS = Parts(cycles={"mirror": [(0, 1)]})
MIRROR = Group("C2", direct_sum(SIDEWAYS, FLIP, SWAP), direct_sum(FLIP, KEEP))
RIGHT = [field("velocity", 2, Vector()), field("yaw_rate", 1, Pseudoscalar()), field("wheels", 2, WHEELS)]
OUT = [field("turning", 1, Pseudovector(axes="z")), field("speed", 1, Scalar())]
TURNS = Group("C8", direct_sum(shift(8), rotation(8)), direct_sum(rotation(8), trivial(8, 1)))
RING = [field("beams", 8, Ring()), field("goal", 2, Vector())]
WAY = [field("velocity", 2, Vector()), field("height", 1, Scalar())]


@pytest.mark.parametrize(
    ("group", "inputs", "outputs"),
    [
        (MIRROR, RIGHT, OUT),
        (MIRROR, [RIGHT[0], field("heading", 1, Angle()), RIGHT[2]], OUT),
        (TURNS, RING, WAY),
        (TURNS, [RING[0], field("goal", 2, None)], WAY),
    ],
)
def test_what_agrees_is_found_to(group: Group, inputs: list[Field], outputs: list[Field]) -> None:
    family = ByHand(group, inputs, outputs)
    assert contradiction(family, group) is None
    check_family(family)  # a warning would be an error here


@pytest.mark.parametrize(
    ("group", "inputs", "outputs", "says"),
    [
        (MIRROR, [RIGHT[0], field("yaw_rate", 1, Scalar()), RIGHT[2]], OUT, "'yaw_rate' of x .* scalar, .*its sign"),
        (MIRROR, [*RIGHT[:2], field("wheels", 2, Scalar())], OUT, "'wheels' of x .* scalar, .* numbers to other pl"),
        (MIRROR, [*RIGHT[:2], field("wheels", 2, WHEELS.model_copy(update={"flips": {"mirror": (0, 1)}}))], OUT,
         "'wheels' of x says that it is a parts, but element 1 of C2, by group.., moves its numbers"),
        (MIRROR, RIGHT, [OUT[0], field("speed", 1, Pseudoscalar())], "'speed' of y .* element 1 of C2.* leaves it"),
        (TURNS, [field("beams", 8, Ring()), field("goal", 2, Scalar())], WAY, "'goal' of x says that it is a scalar"),
        (TURNS, RING, [WAY[0], field("height", 1, Pseudoscalar())], None),
        (Group("C8", direct_sum(shift(8), rotation(8)[::-1][np.r_[7, :7]]), TURNS.outputs), RING, WAY, "'goal' of x"),
    ],
)  # fmt: skip
def test_what_does_not_is_named(group: Group, inputs: list[Field], outputs: list[Field], says: str | None) -> None:
    """A pseudoscalar that turns leave alone is right: no mirror is in the group."""
    family = ByHand(group, inputs, outputs)
    if says is None:
        assert contradiction(family, group) is None
        return
    with pytest.warns(FamilyWarning, match=says):
        check_family(family)
