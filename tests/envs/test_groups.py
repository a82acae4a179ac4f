"""Representations and their random action, for groups of any order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msr_envs.groups import Representation, direct_sum, random_action, rotation, shift, trivial
from msr_runtime.task import Group

orders = st.integers(1, 24)


def _mixed(order: int) -> Representation:
    return direct_sum(rotation(order), trivial(order, 2), shift(order))


@given(orders, st.integers(0, 23), st.integers(0, 23))
def test_every_representation_is_a_homomorphism(order: int, i: int, j: int) -> None:
    """Element i times element j is element i + j, in each representation and in their direct sum."""
    i, j = i % order, j % order
    for matrices in (rotation(order), shift(order), trivial(order, 3), _mixed(order)):
        np.testing.assert_allclose(matrices[i] @ matrices[j], matrices[(i + j) % order], atol=1e-12)


@given(orders)
def test_matrices_are_orthogonal_and_the_identity_comes_first(order: int) -> None:
    """Every element keeps lengths. Element 0 changes nothing."""
    matrices = _mixed(order)
    identity = np.eye(matrices.shape[-1])
    np.testing.assert_allclose(
        matrices @ matrices.swapaxes(1, 2), np.broadcast_to(identity, matrices.shape), atol=1e-12
    )
    np.testing.assert_allclose(matrices[0], identity, atol=1e-12)


@given(orders)
def test_a_shift_does_to_sensors_what_a_rotation_does_to_their_directions(order: int) -> None:
    """Shifting the readings and turning the sum of directions, weighted by the readings, agree."""
    angle = 2 * np.pi * np.arange(order) / order
    directions = np.stack([np.cos(angle), np.sin(angle)], -1)
    readings = np.arange(1.0, order + 1)
    for turn, move in zip(rotation(order), shift(order), strict=True):
        np.testing.assert_allclose((move @ readings) @ directions, turn @ (readings @ directions), atol=1e-9)


@settings(deadline=None)
@given(
    st.integers(1, 12), st.lists(st.integers(1, 4), max_size=3), st.integers(0, 2**32), st.sampled_from(["f4", "f8"])
)
def test_one_element_moves_x_and_y(order: int, lead: list[int], seed: int, dtype: str) -> None:
    """One element moves x and y of each example, for any leading axes. Dtypes and shapes are kept."""
    group = Group(f"C{order}", direct_sum(shift(order), rotation(order)), rotation(order))
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(*lead, order + 2)).astype(dtype), rng.normal(size=(*lead, 2)).astype(dtype)
    moved_x, moved_y = random_action(group, rng, x, y)
    assert (moved_x.shape, moved_x.dtype, moved_y.shape, moved_y.dtype) == (x.shape, x.dtype, y.shape, y.dtype)
    misses = np.maximum(
        np.abs(np.einsum("gij,...j->g...i", group.inputs, x) - moved_x).max(-1),
        np.abs(np.einsum("gij,...j->g...i", group.outputs, y) - moved_y).max(-1),
    )
    assert (misses.min(0) < 1e-5).all()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_each_example_draws_its_own_element(dtype: str) -> None:
    """Equal examples of one batch are turned in every direction, about equally often."""
    group = Group("C4", rotation(4), rotation(4))
    ahead = np.tile(np.array([1.0, 0.0], dtype), (4000, 1))
    moved, _ = random_action(group, np.random.default_rng(0), ahead, ahead)
    _, counts = np.unique(moved.round(), axis=0, return_counts=True)
    assert len(counts) == 4
    assert counts.min() > 900
