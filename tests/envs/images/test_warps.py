"""The maps that an augmentation draws, and images moved by maps."""

from typing import Any

import numpy as np
import pytest

from msr_envs.images import Warps
from msr_envs.images.warps import move

COUNT = 4000


def parts(warps: Warps) -> tuple[Any, Any, Any, Any]:
    """Turn (rad), determinant's sign, side and center of each drawn crop. `warps` has no or one flip."""
    maps = warps.draw(np.random.default_rng(0), COUNT).astype(np.float64)
    linear, center = maps[:, :, :2], maps[:, :, 2]
    area = np.linalg.det(linear)
    side = np.sqrt(np.abs(area))
    return np.arctan2(linear[:, 1, 0], linear[:, 1, 1]), np.sign(area), side, center


def test_the_papers_settings_are_the_default() -> None:
    """Turns evenly within 30 degrees, both flips, crops of 0.8 to 1 of the area that stay inside the image."""
    warps = Warps()
    assert warps.describe() == "turns within 30°, flips left-right and up-down, crops of 0.8 to 1 of the area"
    maps = warps.draw(np.random.default_rng(0), COUNT).astype(np.float64)
    signs = {tuple(row) for row in np.sign(np.diagonal(maps[:, :, :2], axis1=1, axis2=2)).astype(int)}
    assert signs == {(a, b) for a in (-1, 1) for b in (-1, 1)}
    _, _, side, center = parts(warps)
    assert 0.8 <= (side**2).min() < 0.81
    assert 0.99 < (side**2).max() <= 1.0001
    assert abs((side**2).mean() - 0.9) < 0.005
    assert (np.abs(center) <= 1 - side[:, None] + 1e-6).all()
    assert np.abs(center).max() > 0.09


@pytest.mark.parametrize(("angle", "most"), [(0, 0.0), (30, np.pi / 6), (100, np.pi * 100 / 180), ("any", np.pi)])
def test_turns_are_drawn_evenly_to_either_side(angle: Any, most: float) -> None:
    """Up to the largest one. Without flips and crops, a map is a turn about the middle."""
    turn, sign, side, center = parts(Warps(angle, "none", 1.0))
    assert np.abs(turn).max() <= most + 1e-6
    assert abs(turn.mean()) <= 0.05 * most
    assert abs(turn.std() - most / np.sqrt(3)) <= 0.03 * most
    assert (sign == 1).all()
    assert np.allclose(side, 1)
    assert not center.any()


def test_left_right_flips_half_of_the_images() -> None:
    """And never turns them upside down."""
    turn, sign, _, _ = parts(Warps(10, "left-right", 1.0))
    assert 0.47 < (sign < 0).mean() < 0.53
    assert np.abs(turn).max() < 0.18


def test_quarter_turns_and_flips_move_pixels_alone() -> None:
    """Each image becomes one of the eight that numpy makes of it, exactly up to rounding, and all eight occur."""
    rng = np.random.default_rng(0)
    for size in (7, 8):
        x = rng.random((200, 2, size, size), dtype=np.float32)
        moved = move(x, Warps("quarter", "both", 1.0).draw(rng, 200), "zeros")
        wanted = np.stack([np.rot90(f, k, (2, 3)) for f in (x, x[..., ::-1]) for k in range(4)])
        misses = np.abs(wanted - moved).max((2, 3, 4))
        assert misses.min(0).max() < 1e-5
        assert set(misses.argmin(0)) == set(range(8))


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("warps", [Warps(), Warps("quarter", "both", 1.0), Warps("any", "left-right", 0.3)])
def test_numpy_and_torch_move_alike(warps: Warps, padding: Any) -> None:
    """One grid sample of torch gives the same images, also where the map looks outside."""
    torch = pytest.importorskip("torch")
    from msr_runtime.meta.training.episodes import move_images

    rng = np.random.default_rng(0)
    x, maps = rng.random((40, 3, 9, 9), dtype=np.float32), warps.draw(rng, 40)
    found = move_images(torch.from_numpy(x).reshape(4, 10, 3, 9, 9), maps.reshape(4, 10, 2, 3), padding)
    assert np.abs(found.numpy().reshape(x.shape) - move(x, maps, padding)).max() < 1e-5
