"""The synthetic problems: maps, spaces of weights, symmetry, and how much knowing the symmetry helps."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from msr_envs.checking.family import check_family
from msr_envs.registry import SYNTHETIC, load_family
from msr_envs.splits import split_generator
from msr_envs.synthetic.linear import LinearTasks
from msr_envs.synthetic.one_dimension import RANK1, RANK2, MixedFilters
from msr_envs.synthetic.two_dimensions import CONV_C8, CONV_C8_HARD, CONV_D8, CONV_D8_HARD, GroupConvolution
from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, SymmetricFamily, TaskBatch

HARD = (CONV_C8_HARD, CONV_D8_HARD)
IMAGES = (CONV_C8, CONV_D8, *HARD)


def generator(seed: int = 0) -> np.random.Generator:
    """A new generator for each use."""
    return np.random.default_rng(seed)


def loaded(name: str) -> LinearTasks:
    """The built-in problem of that name."""
    family = load_family(name)
    assert isinstance(family, LinearTasks)
    return family


def known(family: LinearTasks, tasks: int, shots: int, queries: int) -> tuple[NDArray[np.float64], TaskBatch]:
    """A training batch, and the weights of its tasks."""
    weights = family.weights(split_generator(family.name, generator(), "train"), tasks)
    return weights, family.sample(generator(), tasks, shots, queries, "train")


def correlation(bank: NDArray, images: NDArray) -> NDArray:
    """The definition of `conv2d`, tap by tap: bank `(channels, 1, 3, 3)`, images `(n, 1, size, size)`."""
    height = images.shape[-1] - 2
    shifted = [(i, j, images[:, :, i : i + height, j : j + height]) for i in range(3) for j in range(3)]
    return np.sum([bank[:, 0, i, j, None, None] * part for i, j, part in shifted], axis=0)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_every_problem_keeps_the_contract(name: str) -> None:
    """Each name gives the problem of that name, which keeps every rule and has no group as matrices."""
    family = load_family(name)
    check_family(family)
    assert family.name == name
    assert not isinstance(family, SymmetricFamily)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_signal_meets_the_dense_weight(rank: int) -> None:
    """Y = W x up to float32 rounding, for support and query samples."""
    weights, batch = known(loaded(f"rank{rank}"), 4, 2, 3)
    assert weights.shape == (4, 68, 70)
    for x, y in (batch[:2], batch[2:]):
        np.testing.assert_allclose(y, np.einsum("toi,tni->tno", weights, x.astype(np.float64)), atol=2e-6)


@pytest.mark.parametrize("family", IMAGES, ids=lambda family: family.name)
def test_an_image_is_correlated_with_the_bank(family: GroupConvolution) -> None:
    """Y is the correlation up to float32 rounding. Only the support set of a hard problem has noise."""
    weights, batch = known(family, 3, 2, 3)
    for bank, shown_x, shown_y, x, y in zip(weights, *batch, strict=True):
        np.testing.assert_allclose(y, correlation(bank, x.astype(np.float64)), atol=2e-6)
        noise = shown_y - correlation(bank, shown_x.astype(np.float64))
        np.testing.assert_allclose(noise.std(), family.noise, rtol=0.1, atol=1e-6)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_the_filter_space_is_the_span_of_the_tasks_weights(name: str) -> None:
    """The singular vectors of many drawn weights span the same space, with the same dimension."""
    family = loaded(name)
    space = family.filter_space()
    drawn = family.weights(generator(), 4 * space.shape[1]).reshape(-1, len(space))
    values, vectors = np.linalg.svd(drawn, full_matrices=False)[1:]
    dimensions = int((values > 1e-9 * values[0]).sum())
    assert space.dtype == np.float64
    assert space.shape[1] == dimensions == {"rank1": 3, "rank2": 6, "rank5": 15}.get(name, 18)
    np.testing.assert_allclose(space.T @ space, np.eye(dimensions), atol=1e-12)
    cosines = np.linalg.svd(vectors[:dimensions] @ space)[1]
    np.testing.assert_allclose(cosines, 1.0, atol=1e-12)


def test_rank_one_is_a_convolution() -> None:
    """All positions share one filter, and a shifted signal has a shifted response."""
    weight = RANK1.weights(generator(), 1)[0]
    x = generator(1).standard_normal((1, 70))
    response, shifted = RANK1.respond(weight, x), RANK1.respond(weight, np.roll(x, 1, 1))
    np.testing.assert_allclose(shifted[:, 1:], response[:, :-1], atol=1e-12)


def test_the_mixing_belongs_to_the_problem() -> None:
    """It is always the same, and its rows sum to one. Tasks differ only in their filters."""
    again = MixedFilters(2)
    assert np.array_equal(again.mixing, RANK2.mixing)
    np.testing.assert_allclose(again.mixing.sum(1), 1.0)
    np.testing.assert_array_equal(again.weights(generator(), 2), RANK2.weights(generator(), 2))
    assert np.linalg.matrix_rank(RANK2.mixing) == 2


@pytest.mark.parametrize("family", IMAGES, ids=lambda family: family.name)
def test_a_turned_image_has_turned_responses_in_shifted_channels(family: GroupConvolution) -> None:
    """A quarter turn, which is exact on pixels, shifts the channels by two. A flip exchanges the halves of D8."""
    bank = family.weights(generator(), 1)[0]
    x = generator(1).standard_normal((2, *family.inputs[0].shape))
    y = family.respond(bank, x)
    order = y.shape[1] // 3
    fields = y.reshape(2, 3, order // 8, 8, *y.shape[2:])  # third axis: without and with the flip
    turned = family.respond(bank, np.rot90(x, axes=(2, 3))).reshape(fields.shape)
    np.testing.assert_allclose(turned, np.rot90(np.roll(fields, 2, 3), axes=(4, 5)), atol=1e-12)
    flipped = family.respond(bank, x[..., ::-1, :]).reshape(fields.shape)
    if order == 16:
        # the flip turns element k into the flipped element -k: each half is the other half in reverse order
        swapped = fields[:, :, ::-1, -np.arange(8) % 8]
        np.testing.assert_allclose(flipped, swapped[..., ::-1, :], atol=1e-12)


@pytest.mark.parametrize("family", IMAGES, ids=lambda family: family.name)
def test_a_turn_by_an_eighth_moves_the_ring_by_one_tap(family: GroupConvolution) -> None:
    """The next channel of C8 has the same filter, with its ring moved by one tap. D8 also flips the filter."""
    bank = family.weights(generator(), 1)[0].reshape(3, -1, 8, 9)
    counter_clockwise = np.array([5, 2, 1, 0, 3, 6, 7, 8])
    rings = bank[..., counter_clockwise]
    np.testing.assert_allclose(np.roll(rings, 1, -1), np.roll(rings, -1, 2), atol=1e-12)
    assert (np.ptp(bank[..., 4], axis=(1, 2)) < 1e-12).all()
    if bank.shape[1] == 2:
        # the flipped filter is the first channel upside down, which changes the sign of the ring's angles
        np.testing.assert_allclose(bank[:, 1, 0].reshape(3, 3, 3), bank[:, 0, 0].reshape(3, 3, 3)[:, ::-1], atol=1e-12)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_splits_are_disjoint_and_augmentation_does_nothing(name: str) -> None:
    """Equal generators draw different tasks in different splits. `augment` returns x and y as they are."""
    family = loaded(name)
    batches = [family.sample(generator(), 3, 1, 1, split) for split in SPLITS]
    images = {x.tobytes() for batch in batches for x in batch.support_x}
    assert len(images) == 9
    x, y = family.augment(generator(), batches[0].query_x, batches[0].query_y)
    assert x is batches[0].query_x
    assert y is batches[0].query_y


def test_an_unknown_split_is_refused() -> None:
    """The message names the problem, the split, and the splits that exist."""
    with pytest.raises(FamilyError, match=r"rank1: split 'dev' is unknown; use one of train, validation, test"):
        RANK1.sample(generator(), 1, 1, 1, "dev")  # pyright: ignore[reportArgumentType]


def floors(family: GroupConvolution, tasks: int) -> NDArray[np.float64]:
    """Mean squared query errors after one support image, in the columns of the table in `two_dimensions`."""
    batch = family.sample(generator(), tasks, 1, 16, "test")
    space = family.filter_space().reshape(-1, 9, 18)
    prior = 2 / 9  # variance of a tap
    errors = []
    for image, shown, x, y in zip(*batch, strict=True):
        patches = sliding_window_view(image[0, 0].astype(np.float64), (3, 3)).reshape(-1, 9)
        targets = shown.reshape(len(space), -1).T
        gram = patches.T @ patches
        design = np.einsum("qp,cpd->qcd", patches, space)
        banks = (
            np.zeros((len(space), 9)),
            np.linalg.lstsq(patches, targets)[0].T,
            np.linalg.solve(gram + family.noise**2 / prior * np.eye(9), patches.T @ targets).T,
            space @ np.linalg.lstsq(design.reshape(-1, 18), targets.ravel())[0],
        )
        errors.append([np.mean((family.respond(bank, x.astype(np.float64)) - y) ** 2) for bank in banks])
    return np.mean(errors, 0)


@pytest.mark.parametrize(
    ("family", "documented"),
    [(CONV_C8_HARD, [1.99, 0.34, 0.25, 0.0147]), (CONV_D8_HARD, [1.99, 0.34, 0.25, 0.0073])],
    ids=["conv-c8-hard", "conv-d8-hard"],
)
def test_the_hard_problems_reward_the_symmetry(family: GroupConvolution, documented: list[float]) -> None:
    """The errors are those of the module's table. Knowing the group makes them more than ten times smaller."""
    found = floors(family, 200)
    np.testing.assert_allclose(found, documented, rtol=0.15)
    assert found[3] < found[2] / 10


@pytest.mark.parametrize("family", [CONV_C8, CONV_D8], ids=lambda family: family.name)
def test_the_papers_images_do_not(family: GroupConvolution) -> None:
    """Without noise, one image of 32 x 32 pixels determines the bank exactly, without knowing the symmetry."""
    assert floors(family, 2)[1] < 1e-10
