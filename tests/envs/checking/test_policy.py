"""`check_policy` compares a policy with the declared symmetry, and names the field that does not fit."""

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs import check_policy
from msr_envs.symmetry import DeclaredSymmetry, Parts, Pseudoscalar, Scalar, mirror
from msr_runtime.errors import FamilyError
from msr_runtime.task import Field, Group, Loss, Split, TaskBatch

SWAP = Parts(cycles={"mirror": [("left", "right")]})
RIGHT = {"yaw_rate": Pseudoscalar(), "wheels": SWAP, "turning": Pseudoscalar()}


def cart(**wrong: Any) -> Any:
    """A cart with two wheels, with what its fields say; `wrong` replaces some of it."""
    said = RIGHT | wrong

    class Cart(DeclaredSymmetry):
        name, query_sets, symmetry = "cart", ("all",), mirror()
        loss: Loss = "mse"
        inputs = (
            Field(name="yaw_rate", shape=(1,), unit="rad/s", low=-2, high=2, representation=said["yaw_rate"]),
            Field(
                name="wheels", shape=(2,), unit="1", low=-2, high=2, names=("left", "right"),
                representation=said["wheels"],
            ),
        )  # fmt: skip
        outputs = (
            Field(name="forward", shape=(1,), unit="m/s2", low=-9, high=9, representation=Scalar()),
            Field(name="turning", shape=(1,), unit="rad/s2", low=-9, high=9, representation=said["turning"]),
        )

        def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
            """Draw states and commands alone: the policy gives y."""
            x = rng.uniform(-1, 1, (tasks, shots + queries, 3)).astype(np.float32)
            y = np.zeros((*x.shape[:2], 2), np.float32)
            return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    return Cart()


def policy(x: NDArray) -> NDArray:
    """A true model of the cart, so that it has the true mirror."""
    yaw_rate, left, right = x.T
    return np.stack([np.tanh(left) + np.tanh(right), 2 * np.tanh(right) - 2 * np.tanh(left) - yaw_rate], 1)


def report(family: Any, predict: Any = policy) -> Any:
    return check_policy(predict, family, np.random.default_rng(0))


def test_what_is_declared_right_holds() -> None:
    found = report(cart())
    assert str(found) == "mirror: forward 0 holds, turning 0 holds"
    assert not found.broken


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"yaw_rate": Scalar()}, "forward 0 holds, turning 0.5. BROKEN; the input yaw_rate .* if it changed its sign"),
        ({"wheels": Scalar()}, "turning 1.. BROKEN; the input wheels does not fit: if it had its numbers in reverse"),
        (
            {"wheels": SWAP.model_copy(update={"flips": {"mirror": ("left", "right")}})},
            "forward 1.4 BROKEN, turning 1.. BROKEN; the input wheels does not fit: if it had the opposite sign, at mo",
        ),
        ({"turning": Scalar()}, "forward 0 holds, turning 1.4 BROKEN; the output turning .* if it changed its sign"),
    ],
)
def test_a_field_that_is_declared_wrong_is_named(wrong, says) -> None:
    """Its own mirror would agree with data that it made: the policy does not."""
    found = report(cart(**wrong))
    assert found.broken
    assert (found.elements[0].other.error) < 1e-6
    assert str(found).startswith("mirror: ")
    assert re.search(says, str(found)), str(found)


def test_a_policy_without_the_symmetry_blames_no_field() -> None:
    """A wheel that is stronger than the other one: no declaration mends that."""
    found = report(cart(), lambda x: policy(x * [1, 1, 0.2]))
    assert found.broken
    assert found.elements[0].other is None
    assert "does not fit" not in str(found)


class Turned:
    """A family whose group is written by hand."""

    name, loss, query_sets = "turned", "mse", ("all",)
    inputs = outputs = (Field(name="push", shape=(2,), unit="N", low=-9, high=9),)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw pushes."""
        x = rng.normal(size=(tasks, shots + queries, 2)).astype(np.float32)
        return TaskBatch(x[:, :shots], x[:, :shots], x[:, shots:], x[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Unused here."""
        return x, y

    def group(self) -> Group:
        """Quarter turns, of which the outputs turn the other way round."""
        quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
        turns = np.stack([np.linalg.matrix_power(quarter, n) for n in range(4)])
        return Group("C4", turns, turns.mT)


def test_a_group_by_hand_is_measured_by_element() -> None:
    family: Any = Turned()
    lines = str(report(family, lambda x: 3 * x)).splitlines()
    assert len(lines) == 3
    assert "element 1 of C4: push 1.4 BROKEN; the input push does not fit: if it " in lines[0]
    assert lines[1] == "element 2 of C4: push 0 holds"


def test_recorded_tasks_of_few_samples_are_enough() -> None:
    family = cart()
    family.examples = 4

    def predict(x: NDArray) -> NDArray:
        assert x.shape == (48, 3)  # 16 tasks with 3 samples beside the one of the support set
        return policy(x)

    assert not report(family, predict).broken


def test_what_cannot_be_compared_is_said() -> None:
    without: Any = type("Plain", (Turned,), {"group": None})()
    with pytest.raises(FamilyError, match="family 'turned' has no group, so there is no symmetry"):
        report(without)
    with pytest.raises(FamilyError, match=r"shape \(512, 3\) for 512 samples, but family 'cart' has 2 finite numbers"):
        report(cart(), lambda x: x)
