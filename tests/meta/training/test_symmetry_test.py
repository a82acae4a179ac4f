"""An augmentation that is not a symmetry of each single task is recognized and refused."""

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs.groups import direct_sum, random_action, rotation, shift
from msr_envs.hex_drive.family import HexDrive, WeakThruster
from msr_envs.ring_nav.family import RingNav
from msr_runtime.errors import AugmentationError, AugmentationWarning
from msr_runtime.meta.training.symmetry_test import AugmentationReport, check_augmentation, require_symmetry
from msr_runtime.task import Field, Group, Loss, Split, TaskBatch


class Plane:
    """y = A x in the plane. A is a turn with a gain, so C4 is a symmetry; with `skew`, the two axes differ."""

    name = "plane"
    inputs: tuple[Field, ...] = (Field(name="force", shape=(2,), unit="N", low=-9, high=9),)
    outputs: tuple[Field, ...] = (Field(name="speed", shape=(2,), unit="m/s", low=-9, high=9),)
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("near", "wide")

    def __init__(self, skew: float = 0.0, noise: float = 0.0) -> None:
        self.skew, self.noise = skew, noise

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        a, b = rng.uniform(0.5, 1.5, (2, tasks, 1, 1))
        x = rng.normal(size=(tasks, shots + queries, 2)).astype(np.float32)
        y = (
            a * x
            + b * np.stack([-x[..., 1], x[..., 0]], -1)
            + self.skew * rng.choice([-1, 1], (tasks, 1, 1)) * x * [1, -1]
        )
        y = (y + self.noise * rng.normal(size=y.shape)).astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        return random_action(Group("C4", rotation(4), rotation(4)), rng, x, y)


class Direction(Plane):
    """The label says to which of four directions a force points. They are counted from an unknown mounting angle."""

    name = "direction"
    outputs = (Field(name="label", shape=(4,), unit="1", low=0, high=1),)
    loss: Loss = "cross_entropy"
    step = 1

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        batch = super().sample(rng, tasks, shots, queries, split)
        mount = rng.uniform(0, 2 * np.pi, (tasks, 1))
        label = lambda x: (np.arctan2(x[..., 1], x[..., 0]) + mount) // (np.pi / 2) % 4  # noqa: E731
        return batch._replace(
            support_y=label(batch.support_x).astype(np.int64), query_y=label(batch.query_x).astype(np.int64)
        )

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        element = rng.integers(4, size=y.shape)
        return np.einsum("...ij,...j->...i", rotation(4)[element], x).astype(x.dtype), (y + self.step * element) % 4


class WrongDirection(Direction):
    """The augmentation turns the label the wrong way."""

    step = -1


class ForgottenGoal(RingNav):
    """The augmentation shifts the beams, but does not turn the goal and the command with them."""

    name = "forgotten-goal"

    def group(self) -> Group:
        still = np.broadcast_to(np.eye(2), (16, 2, 2))
        return Group("C16", direct_sum(shift(16), still), still)

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        return random_action(self.group(), rng, x, y)


@pytest.mark.parametrize(
    "family",
    [Plane(), pytest.param(Plane(noise=0.3), marks=pytest.mark.slow), Direction()],
    ids=["exact", "noisy", "labels"],
)
def test_a_symmetry_of_each_task_is_accepted(family: Any) -> None:
    """A true symmetry passes: without noise, with noise, and for labels."""
    assert require_symmetry(family, np.random.default_rng(0)).accepted


@pytest.mark.parametrize(
    "family", [Plane(skew=0.3), Plane(skew=0.3, noise=0.3), WrongDirection()], ids=["exact", "noisy", "labels"]
)
def test_a_group_that_moves_tasks_onto_others_is_refused(family: Any) -> None:
    """The set of all tasks is symmetric, or nearly so. The single tasks are not."""
    with pytest.raises(
        AugmentationError, match=f"'{family.name}': its augmentation is not a symmetry of each of its tasks"
    ):
        require_symmetry(family, np.random.default_rng(0))


def test_an_asymmetry_too_small_to_matter_is_accepted() -> None:
    """A real robot has tolerances, here 1 %. It may still be trained with augmentation, and is told loudly."""
    with pytest.warns(AugmentationWarning, match="'plane': it is in doubt whether its augmentation is a symmetry"):
        report = require_symmetry(Plane(skew=0.01), np.random.default_rng(0))
    assert report.ratio > 10
    assert str(report).startswith("IN DOUBT whether a symmetry of each task: held-out error of 'speed'")


class Wheels(Plane):
    """A differential drive with wheels of other strength in each task, which mirrors itself. y is its next state."""

    name = "wheels"
    inputs = (
        Field(name="yaw_rate", shape=(1,), unit="rad/s", low=-3, high=3),
        Field(name="wheels", shape=(2,), unit="V", low=-1, high=1),
    )
    outputs = (Field(name="yaw_rate", shape=(1,), unit="rad/s", low=-5, high=5),)
    query_sets: tuple[str, ...] = ("all",)
    change = False

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        x = rng.uniform(-1, 1, (tasks, shots + queries, 3)) * np.array([3, 1, 1])
        left, right = rng.uniform(0.7, 1.4, (2, tasks, 1))
        turn = (right * x[..., 2] - left * x[..., 1]) / 0.4  # rad/s, where the yaw rate goes with these voltages
        y = ((turn - x[..., 0]) / 6)[..., None] + (0 if self.change else x[..., :1])
        x, y = x.astype(np.float32), y.astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        mirrored = rng.choice([False, True], (*x.shape[:-1], 1))
        return np.where(mirrored, np.stack([-x[..., 0], x[..., 2], x[..., 1]], -1), x), np.where(mirrored, -y, y)


class WheelsOfChange(Wheels):
    """The same robot. y is the change of its state."""

    change = True


def test_wheels_that_differ_are_no_mirror_images() -> None:
    """The mirror spoils what differs between the tasks. In the next state this is little, and the doubt is loud."""
    with pytest.warns(AugmentationWarning, match="Then let y be the change of the state"):
        assert require_symmetry(Wheels(), np.random.default_rng(0)).t > 4
    with pytest.raises(AugmentationError, match="'wheels'"):
        require_symmetry(WheelsOfChange(), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ({"error_without": 0.02, "error_with": 0.0239, "t": 9.0}, "holds"),
        ({"error_without": 0.02, "error_with": 0.03, "t": 3.9}, "holds"),
        ({"error_without": 0.02, "error_with": 0.03, "t": 4.1}, "refused"),
        ({"error_without": 0.002, "error_with": 0.0025, "t": 4.1}, "in doubt"),
        ({"error_without": 0.02, "error_with": 0.01, "t": -9.0, "samples": 255}, "in doubt"),
        ({"error_without": 0.02, "error_with": 0.03, "t": 4.1, "samples": 8}, "refused"),
    ],
)
def test_the_verdict_follows_the_documented_thresholds(figures: dict[str, Any], verdict: str) -> None:
    """A ratio of 1.2, a t of 4, an excess of a thousandth and 256 held-out samples part the verdicts."""
    report = AugmentationReport("cart", "its augmentation", "speed", **figures)
    assert (report.verdict, report.accepted) == (verdict, verdict != "refused")


class Few(Plane):
    """A recording with few examples of each task."""

    examples = 41


def test_few_examples_leave_a_doubt() -> None:
    """The test takes as many as there are, none of them twice, and says how many a sure test needs."""
    with pytest.warns(
        AugmentationWarning, match=r"tested on 20 held-out samples of each task, .* a sure test needs 256"
    ):
        assert require_symmetry(Few(), np.random.default_rng(0)).samples == 20
    few = Few()
    few.examples = 4
    with pytest.raises(AugmentationError, match=r"'plane': a task has too few examples .*5 are the least"):
        require_symmetry(few, np.random.default_rng(0))


@pytest.mark.parametrize("family", [RingNav(), HexDrive()], ids=lambda family: family.name)
def test_built_in_families_are_accepted(family: Any) -> None:
    """Augmented copies lower the error of both robots, by much more than chance would."""
    report = check_augmentation(family, np.random.default_rng(0))
    assert report.accepted
    assert report.ratio < 0.8
    assert report.t < -4


def test_one_weak_thruster_is_refused_by_name() -> None:
    """The message names family, group, field and both errors, the two likely causes, and three ways to go on."""
    with pytest.raises(AugmentationError) as caught:
        require_symmetry(WeakThruster(), np.random.default_rng(0))
    message = str(caught.value)
    for words in (
        "'hex-weak-thruster'",
        "C6",
        "_change'",
        "a missing minus sign",
        "one weak actuator",
        "permutes",
        "no-augment",
        "insist-on-augmentation",
    ):
        assert words in message
    assert len(re.findall(r"0\.\d+", message)) == 2


def test_a_wrong_group_on_a_symmetric_robot_is_refused() -> None:
    """Shifting only the beams is not a symmetry of an operator who drives to a goal."""
    with pytest.raises(AugmentationError, match=r"'forgotten-goal': the group C16 .*'velocity'"):
        require_symmetry(ForgottenGoal(), np.random.default_rng(0))
