"""How much of a known space a symmetry matrix holds."""

import numpy as np
import pytest

from msr_runtime.meta.symmetry.grid import GridGroup, product, shared_entries
from msr_runtime.meta.symmetry.measures import energy, held, recovery

RNG = np.random.default_rng(0)
SPACE = np.linalg.qr(RNG.normal(size=(12, 3)))[0]


def test_columns_that_span_the_space_recover_it() -> None:
    """For any length and angle of the columns, and for any further columns of U."""
    mixed = SPACE @ RNG.normal(size=(3, 3))
    assert recovery(mixed, SPACE) == pytest.approx(1.0, abs=1e-12)
    assert recovery(np.concatenate([mixed, RNG.normal(size=(12, 2))], 1), SPACE) == pytest.approx(1.0, abs=1e-12)


def test_what_is_missing_is_missing() -> None:
    """One of three dimensions counts a third, one at 45 degrees counts half, and none counts nothing."""
    other = np.linalg.qr(np.concatenate([SPACE, RNG.normal(size=(12, 3))], 1))[0][:, 3:]
    assert recovery(SPACE[:, :1], SPACE) == pytest.approx(1 / 3)
    tilted = np.concatenate([SPACE[:, :2], SPACE[:, 2:] + other[:, :1]], 1)
    assert recovery(tilted, SPACE) == pytest.approx(2.5 / 3)
    assert recovery(other, SPACE) == pytest.approx(0.0, abs=1e-12)


def test_the_energy_is_the_share_of_the_squares_in_the_space() -> None:
    """Long columns count more. All of it lies in their own span; of the identity, the space's share of dimensions."""
    other = np.linalg.qr(np.concatenate([SPACE, RNG.normal(size=(12, 3))], 1))[0][:, 3:]
    assert energy(SPACE[:, :1], SPACE) == pytest.approx(1.0)
    assert energy(np.concatenate([3 * SPACE[:, :1], other[:, :1]], 1), SPACE) == pytest.approx(0.9)
    assert energy(np.eye(12), SPACE) == pytest.approx(3 / 12)


@pytest.mark.parametrize("name", ["D1", "D2", "C4"])
def test_a_u_that_shares_by_the_group_holds_it(name) -> None:
    """With its channels in any basis, which nobody tells. A random one does not; the identity holds what is left."""
    group = GridGroup.named(name)
    moves, size = group.on_grid(3, 3), 2 * group.order
    entries = shared_entries(product(group.on_channels(size), moves))
    shared = np.eye(entries.max() + 1)[entries].reshape(size, 9, -1)
    turn = np.linalg.qr(RNG.normal(size=(size, size)))[0]
    assert held(np.einsum("qo,opk->qpk", turn, shared), moves) == pytest.approx(1.0)
    assert held(RNG.normal(size=shared.shape), moves) < 0.8
    left = np.mean([(move == np.arange(9)).mean() for move in moves[1:]])
    assert held(np.eye(9 * size).reshape(size, 9, -1), moves) == pytest.approx(left)
