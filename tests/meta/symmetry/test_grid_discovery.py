"""Flips and quarter turns found from pairs of images alone, and none where the augmentation has none."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_runtime.errors import FamilyError
from msr_runtime.meta.symmetry.grid import GridGroup, GridName
from msr_runtime.meta.symmetry.grid_discovery import find_grid_group, fit_maps
from msr_runtime.task import Field, TaskBatch

SIZE = 10


def _family(group: GridName | None, *, noise: float = 0.0, shift: int = 0, channels: int = 2) -> Any:
    """Random smooth images. `augment` moves each by a random element, adds noise, and shifts it by some pixels."""
    permutations = np.arange(SIZE * SIZE)[None] if group is None else GridGroup.named(group).on_grid(SIZE, SIZE)

    def sample(rng: np.random.Generator, tasks: int, shots: int, queries: int, split: str) -> TaskBatch:
        x = rng.normal(size=(tasks, shots + queries, channels, SIZE, SIZE))
        for axis in (-1, -2):
            x = x + 0.5 * np.roll(x, 1, axis) + 0.5 * np.roll(x, -1, axis)
        y = np.zeros((tasks, shots + queries), np.int64)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        chosen = permutations[rng.integers(len(permutations), size=x.shape[:2])]
        moved = np.take_along_axis(x.reshape(*x.shape[:3], -1), chosen[:, :, None], -1).reshape(x.shape)
        moved = moved + noise * rng.normal(size=x.shape)
        for task, steps in zip(moved, rng.integers(-shift, shift + 1, len(x)), strict=True):
            task[:] = np.roll(task, steps, -1)
        return moved, y

    image = Field(name="image", shape=(channels, SIZE, SIZE), unit="1", low=-9.0, high=9.0)
    kind = Field(name="class", shape=(2,), unit="1", low=0.0, high=1.0)
    return SimpleNamespace(
        name="smooth", inputs=(image,), outputs=(kind,), loss="cross_entropy", query_sets=("all",), sample=sample,
        augment=augment,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["D1", "C2", "D2", "C4", "D4"])
def test_the_group_is_found_exactly(name: GridName) -> None:
    """From pairs alone, and also through noise."""
    finding = find_grid_group(_family(name), np.random.default_rng(0))
    assert finding.group is not None
    assert finding.group.name == name
    assert finding.distance < 1e-6
    assert finding.costs[finding.group.order] < 1e-9
    finding = find_grid_group(_family(name, noise=0.5), np.random.default_rng(1))
    assert finding.group is not None
    assert finding.group.name == name
    assert 1e-6 < finding.distance < 0.2


@pytest.mark.parametrize("changes", [{}, {"noise": 1.0}, {"shift": 1}])
def test_what_is_no_group_ends_in_none(changes: dict[str, Any]) -> None:
    """Nothing, noise, and a shift: the only kind of map is the identity."""
    finding = find_grid_group(_family(None, **changes), np.random.default_rng(0))
    assert finding.group is None
    assert str(finding) == "none"


def test_the_finding_is_told_in_words() -> None:
    """A person can compare it with what the augmentation is meant to do."""
    assert str(find_grid_group(_family("D2"), np.random.default_rng(0))) == (
        "D2, 4 elements: identity, left-right flip, up-down flip, half turn"
    )


def test_a_map_that_loses_its_pairs_begins_anew() -> None:
    """Three kinds of pairs are told apart although two of the starts may be the same kind."""
    rng = np.random.default_rng(0)
    maps = np.stack([np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(3)])
    before = rng.normal(size=(3000, 6))
    after = np.einsum("pij,pj->pi", maps[np.arange(3000) % 3], before)
    found, cost = fit_maps(before, after, 3, rng)
    assert cost < 1e-12
    assert all(np.abs(found - each).max((1, 2)).min() < 1e-6 for each in maps)


def test_images_that_are_not_square_are_refused() -> None:
    """A quarter turn would not fit."""
    family = _family(None)
    family.inputs = (Field(name="image", shape=(1, 4, 6), unit="1", low=0.0, high=1.0),)
    with pytest.raises(FamilyError, match=r"'smooth': a sample has the shape \(1, 4, 6\), but .* square"):
        find_grid_group(family, np.random.default_rng(0))
