"""The group of any family is found: of vectors as matrices, of images as flips and turns, with what becomes of y."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msr_envs.hex_drive import HexDrive
from msr_envs.images import Omniglot
from msr_runtime.meta.symmetry import Discovery, GridGroup, discover_group, known_group, multiplication_table
from msr_runtime.task import Field, Group, TaskBatch, acted, as_matrices

SIZE = 13
D2 = GridGroup.named("D2")
SIGNS = np.stack([np.diag(matrix.diagonal()[::-1]).astype(float) for matrix in D2.matrices])
"""How a velocity (right, down) on the image flips with it."""


def _camera(outputs: NDArray | None, *, noise: float = 0.0, loss: str = "mse", size: int = SIZE) -> Any:
    """Smooth images, and a y of two numbers or classes. `augment` flips the image and moves y by `outputs`."""
    moves = D2.on_grid(size, size)

    def sample(rng: np.random.Generator, tasks: int, shots: int, queries: int, split: str) -> TaskBatch:
        x = rng.normal(size=(tasks, shots + queries, 1, size, size))
        for axis in (-1, -2):
            x = x + np.roll(x, 1, axis)
        y = rng.normal(size=(tasks, shots + queries, 2)) if loss == "mse" else rng.integers(2, size=x.shape[:2])
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        element = rng.integers(4, size=x.shape[:2])
        moved = np.take_along_axis(x.reshape(*x.shape[:2], -1), moves[element], -1).reshape(x.shape)
        if loss != "mse":
            return moved, (y + (0 if outputs is None else element % 2)) % 2
        y = y if outputs is None else np.einsum("tsij,tsj->tsi", outputs[element], y)
        return moved, y.astype(np.float32) + noise * rng.normal(size=y.shape)

    return SimpleNamespace(
        name="camera",
        inputs=(Field(name="image", shape=(1, size, size), unit="1", low=-9.0, high=9.0),),
        outputs=(Field(name="speed", shape=(2,), unit="m/s", low=-9.0, high=9.0),),
        loss=loss,
        query_sets=("all",),
        sample=sample,
        augment=augment,
    )


def _assert_is(found: Discovery, outputs: NDArray) -> None:
    """It is the group of both flips, in some order, with these matrices on y."""
    assert found.group is not None
    assert found.group.name == "D2"
    whole = Group("D2", as_matrices(found.group.inputs), found.group.outputs)
    multiplication_table(whole)
    for move, matrix in zip(D2.on_grid(SIZE, SIZE), outputs, strict=True):
        same = [np.array_equal(each, np.eye(SIZE**2)[move]) for each in whole.inputs]
        np.testing.assert_allclose(whole.outputs[same.index(True)], matrix, atol=1e-7)


def test_flips_of_a_camera_move_y_too() -> None:
    """What becomes of y is fitted to the samples that each flip moved, and is exact."""
    _assert_is(discover_group(_camera(SIGNS)), SIGNS)
    _assert_is(discover_group(_camera(None)), np.tile(np.eye(2), (4, 1, 1)))


def test_classes_that_change_places_are_found() -> None:
    """A flip makes a right-hand part a left-hand one. With classes that stay, the matrices are identities."""
    swaps = np.stack([np.eye(2), np.eye(2)[::-1]] * 2)
    _assert_is(discover_group(_camera(swaps, loss="cross_entropy")), swaps)
    _assert_is(discover_group(_camera(None, loss="cross_entropy")), np.tile(np.eye(2), (4, 1, 1)))


def test_a_y_that_no_matrix_moves_leaves_the_flips_alone() -> None:
    """The filters may hold them; the equivariance is not known."""
    found = discover_group(_camera(SIGNS, noise=0.1))
    assert found.group is None
    assert found.grid is not None
    assert not found.nothing
    assert found.words == (
        "D2, 4 elements: identity, left-right flip, up-down flip, half turn",
        "what becomes of y is no matrix for each element",
    )


def test_small_images_are_asked_number_by_number() -> None:
    """Their matrices are as exact as those of any vector, and the flips are named too."""
    found = discover_group(_camera(SIGNS, size=6))
    assert found.group is not None
    assert found.group.name == "C2xC2"
    assert found.grid is not None
    assert found.grid.name == "D2"


def test_an_image_family_without_its_group_has_it_again(image_file) -> None:
    """The group that is found moves images as the declared one does. `group()` is taken as it is."""
    family = Omniglot(image_file, size=8, ways=3, angle="quarter", crop=1)
    members = ("name", "inputs", "outputs", "loss", "query_sets", "sample", "augment")
    bare: Any = SimpleNamespace(**{name: getattr(family, name) for name in members})
    found, declared = known_group(bare), family.group()
    assert found is not None
    x = np.arange(64)
    moved = [{tuple(acted(each, x).tolist()) for each in group.inputs} for group in (found, declared)]
    assert moved[0] == moved[1]
    assert len(moved[0]) == 8
    assert discover_group(Omniglot(image_file, size=8, ways=3, angle=0, flips="none", crop=0.7)).nothing


def test_what_was_found_is_told_with_its_time() -> None:
    """In the first line; a line for each generator follows."""
    first, second = str(discover_group(HexDrive())).splitlines()
    assert first.startswith("C6, 6 elements; in 0.")
    assert first.endswith(" s")
    assert second.startswith("velocity turned by ")
    still = _camera(None)
    still.augment = lambda rng, x, y: (x, y)
    nothing = discover_group(still)
    assert nothing.nothing
    assert nothing.words == ("none",)
