"""The group of a family that augments alone is found, exactly; what is no group of matrices is not."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from msr_envs.groups import direct_sum, random_action, rotation, shift, trivial
from msr_envs.hex_drive import HexDrive
from msr_envs.ring_nav import RingNav
from msr_runtime.meta.symmetry import find_group, known_group, multiplication_table
from msr_runtime.task import SPLITS, Field, Group, TaskBatch

MEMBERS = ("name", "inputs", "outputs", "loss", "query_sets", "sample", "augment")


def bare(family: Any) -> Any:
    """The same family without `group()`."""
    return SimpleNamespace(**{name: getattr(family, name) for name in MEMBERS})


def augmenting(augment: Any, inputs: int = 3, outputs: int = 2, loss: str = "mse") -> Any:
    """A family of which `augment` alone matters. Each number is a field of its own."""

    def sample(rng, tasks, shots, queries, split) -> TaskBatch:
        rng = np.random.default_rng([SPLITS.index(split), rng.integers(2**63)])
        x = rng.uniform(0.1, 1, (tasks, shots + queries, inputs)).astype(np.float32)
        y = x[..., :outputs] if loss == "mse" else rng.integers(outputs, size=x.shape[:2])
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    fields = [
        tuple(Field(name=f"{i}", shape=(1,), unit="1", low=-1, high=1) for i in range(n)) for n in (inputs, outputs)
    ]
    return SimpleNamespace(
        name="own", inputs=fields[0], outputs=fields[1], loss=loss, query_sets=("all",), sample=sample, augment=augment
    )


def by(group: Group) -> Any:
    return lambda rng, x, y: random_action(group, rng, x, y)


def assert_same(found: Group | None, group: Group) -> None:
    """Both hold the same elements, whatever their order, up to the rounding of float64."""
    assert found is not None
    assert found.order == group.order
    multiplication_table(found)  # exact, and the identity first
    for x, y in zip(group.inputs, group.outputs, strict=True):
        misses = np.maximum(np.abs(found.inputs - x).max((1, 2)), np.abs(found.outputs - y).max((1, 2)))
        assert misses.min() < 1e-7


def test_the_group_of_hex_drive_is_found() -> None:
    """C6, with the turns as powers of one of them."""
    found = find_group(bare(HexDrive()))
    assert_same(found, HexDrive().group())
    assert found is not None
    assert found.name == "C6"
    np.testing.assert_allclose(found.inputs[1] @ found.inputs[2], found.inputs[3], atol=1e-12)


def test_a_large_ring_is_found() -> None:
    """C16 on eighteen numbers."""
    assert_same(find_group(bare(RingNav())), RingNav().group())


SWAP = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
FLIP = np.diag([1.0, -1.0])


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (Group("mirror", np.stack([np.eye(3), SWAP]), np.stack([np.eye(2), FLIP])), "C2"),
        (
            Group(
                "two mirrors",
                np.stack([np.diag(s) for s in ([1, 1, 1], [-1, 1, 1], [1, -1, 1], [-1, -1, 1])]).astype(float),
                np.stack([np.diag(s) for s in ([1, 1], [-1, 1], [1, -1], [-1, -1])]).astype(float),
            ),
            "C2xC2",
        ),
        (Group("C5", direct_sum(rotation(5), trivial(5, 1)), rotation(5)), "C5"),
        (
            Group(
                "D3",
                np.concatenate([m := direct_sum(rotation(3), trivial(3, 1)), m @ np.diag([1.0, -1.0, -1.0])]),
                np.concatenate([rotation(3), rotation(3) @ FLIP]),
            ),
            "D3",
        ),
    ],
)
def test_groups_are_found_and_named(group: Group, name: str) -> None:
    """Also where a mirror swaps whole fields."""
    found = find_group(augmenting(by(group)))
    assert_same(found, group)
    assert found is not None
    assert found.name == name


def test_products_that_augment_does_not_draw_are_added() -> None:
    """An augmentation that always turns by a quarter, and never leaves a sample alone."""
    quarter = Group("always", direct_sum(rotation(4), trivial(4, 1))[1:2], rotation(4)[1:2])
    found = find_group(augmenting(by(quarter)))
    assert_same(found, Group("C4", direct_sum(rotation(4), trivial(4, 1)), rotation(4)))


def test_labels_that_change_places_are_found() -> None:
    """Each class goes to the next one as x turns."""

    def augment(rng, x, y) -> tuple:
        element = rng.integers(4, size=y.shape)
        turned = np.einsum("...ij,...j->...i", direct_sum(rotation(4), trivial(4, 1)).astype(x.dtype)[element], x)
        return turned, (y + element) % 4

    found = find_group(augmenting(augment, outputs=4, loss="cross_entropy"))
    assert_same(found, Group("C4", direct_sum(rotation(4), trivial(4, 1)), shift(4)))


def _any_turn(rng, x, y) -> tuple:
    angle = rng.uniform(-np.pi, np.pi, x.shape[:-1])
    matrices = np.stack(
        [np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2
    )
    turned = [np.einsum("...ij,...j->...i", matrices, part[..., :2]).astype(x.dtype) for part in (x, y)]
    return np.concatenate([turned[0], x[..., 2:]], -1), turned[1]


@pytest.mark.parametrize(
    "augment",
    [
        lambda rng, x, y: (x, y),
        lambda rng, x, y: (x + rng.normal(size=x.shape).astype(x.dtype), y),
        lambda rng, x, y: (rng.choice([0.5, 2.0], (*x.shape[:-1], 1)).astype(x.dtype) * x, y),
        lambda rng, x, y: (np.abs(x) * rng.choice([1, -1], (*x.shape[:-1], 1)).astype(x.dtype), y),
        _any_turn,
    ],
    ids=["nothing", "noise", "scales", "not linear", "any angle"],
)
def test_what_is_no_finite_group_of_matrices_is_not_found(augment: Any) -> None:
    """The family then has no group that is known, as before."""
    assert find_group(augmenting(augment)) is None


def test_a_given_group_is_taken_as_it_is() -> None:
    """Nothing is looked for where `group()` says it."""
    family = HexDrive()
    assert known_group(family) is family.group()


def test_wide_samples_are_left_alone() -> None:
    """An image has too many numbers."""
    assert find_group(augmenting(lambda rng, x, y: (-x, -y), inputs=200)) is None
