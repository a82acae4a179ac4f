"""Episodes over stored images. Each image of the test file says which class it is of, and which of its class it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from msr_envs import check_family, load_family
from msr_envs.images import Images, Omniglot
from msr_envs.images.family import ImageEpisodes
from msr_runtime.errors import FamilyError
from msr_runtime.families import EpisodicFamily, rows_per_sample
from msr_runtime.task import SPLITS, DeclaredFamily, Split, SymmetricFamily, acted, as_matrices

SPLIT_OF = {"vinyals": lambda c: c % 3, "background": lambda c: np.where(c >= 24, 2, np.isin(c // 2, (5, 11)))}


def sources(x: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The class and the number of images `(..., 1, 8, 8)` as they are stored."""
    stored = np.rint(x * 255).astype(np.int64)
    return stored[..., 0, 0, 0], stored[..., 0, 0, 1]


@given(
    seed=st.integers(0, 2**32),
    ways=st.integers(2, 8),
    shots=st.integers(1, 7),
    queries=st.integers(1, 9),
    split=st.sampled_from(SPLITS),
    rule=st.sampled_from(["vinyals", "background"]),
)
@settings(max_examples=60)
def test_episodes_keep_their_contract(
    image_file: Path, seed: int, ways: int, shots: int, queries: int, split: Split, rule: Any
) -> None:
    """Classes of the split alone, one label for each; support and queries share no image, and repeat as late as they
    can.
    """
    ways = min(ways, 4) if rule == "background" else ways  # so many classes are held out for validation
    family = Omniglot(image_file, ways, rule, size=8)
    batch = family.sample(np.random.default_rng(seed), 3, shots, queries, split)
    assert batch.support_x.shape == (3, shots * ways, 1, 8, 8)
    assert batch.query_y.shape == (3, queries * ways)
    for x, y, count in ((batch.support_x, batch.support_y, shots), (batch.query_x, batch.query_y, queries)):
        assert (y == np.tile(np.arange(ways), count)).all()
        assert (SPLIT_OF[rule](sources(x)[0]) == SPLITS.index(split)).all()
    for task in range(3):
        classes, numbers = sources(batch.support_x[task])
        asked, which = sources(batch.query_x[task])
        assert len(set(classes)) == ways
        assert (classes == np.tile(classes[:ways], shots)).all()
        assert (asked == np.tile(classes[:ways], queries)).all()
        for label in range(ways):
            support, query = set(numbers[label::ways]), set(which[label::ways])
            assert len(support) == shots
            assert len(query) == min(queries, 8 - shots)
            assert not support & query


def test_each_class_gets_each_label(image_file: Path) -> None:
    """Labels say nothing about the class: over many tasks, every class of the split had every one."""
    batch = Omniglot(image_file, ways=3, size=8).sample(np.random.default_rng(0), 400, 1, 1, "train")
    pairs = set(zip(sources(batch.support_x)[0].ravel(), batch.support_y.ravel(), strict=True))
    assert pairs == {(c, label) for c in range(0, 36, 3) for label in range(3)}


@pytest.mark.parametrize("family", [Omniglot, Images])
def test_a_family_keeps_the_contract(image_file: Path, family: Any) -> None:
    """The public checker says so. The trainer sees an episodic family with the flips as its group."""
    made = family(image_file, ways=4, size=8)
    assert check_family(made).startswith(f"family '{made.name}' keeps the contract, group D2\nflip left-right")
    assert isinstance(made, EpisodicFamily)
    assert isinstance(made, DeclaredFamily)
    assert rows_per_sample(made) == 4


@pytest.mark.parametrize(
    ("options", "name", "order"),
    [
        ({"angle": "quarter", "crop": 1}, "D4", 8),
        ({"angle": "quarter", "crop": 1, "flips": "none"}, "C4", 4),
        ({"angle": 0, "crop": 1}, "D2", 4),
        ({"angle": 0, "crop": 1, "flips": "left-right"}, "D1", 2),
        ({"angle": "any"}, "D4", 8),
    ],
)
def test_the_group_is_what_the_augmentation_does_exactly(
    image_file: Path, options: dict[str, Any], name: str, order: int
) -> None:
    """`check_family` compares each augmented image with its images under the group, where nothing else is drawn."""
    family = Images(image_file, ways=3, size=6, **options)
    assert (family.group().name, family.group().order) == (name, order)
    assert family.turns_freely == (options["angle"] == "any")
    check_family(family)


def test_without_flips_or_quarter_turns_no_group_is_declared(image_file: Path) -> None:
    """Small turns and crops are no group on the grid."""
    family = Images(image_file, ways=3, flips="none")
    assert not isinstance(family, SymmetricFamily)
    check_family(family)
    check_family(Images(image_file, ways=3, flips="none", angle=0, crop=1))


@pytest.mark.parametrize("options", [{"angle": "quarter", "crop": 1}, {}])
def test_the_group_of_large_images_is_one_of_orders(tmp_path: Path, options: dict[str, Any]) -> None:
    """A matrix of 84 x 84 RGB would take 3.6 GB. The orders of the numbers do what the matrices do."""
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 20, 20, 3), np.uint8)
    np.savez(tmp_path / "large.npz", images=images, split=np.repeat([0, 1, 2], 3))
    large, small = (Images(tmp_path / "large.npz", ways=2, size=size, **options) for size in (20, 10))
    check_family(large)
    assert large.group().inputs.shape == (large.group().order, 1200)
    assert small.group().inputs.shape == (large.group().order, 300, 300)
    x = np.random.default_rng(0).random((5, 3, 20, 20))
    for element in large.group().inputs:
        moved = acted(element, x.reshape(5, -1)).reshape(x.shape)
        assert any(
            np.array_equal(moved, np.rot90(flipped, turns, (2, 3)))
            for flipped in (x, x[..., ::-1])
            for turns in range(4)
        )
    orders, vector = large.group().inputs, x[0].ravel()
    assert np.array_equal(as_matrices(orders) @ vector, [acted(order, vector) for order in orders])


def test_equal_seeds_give_equal_episodes(image_file: Path) -> None:
    """Two families of the same options draw the same tasks and moves, so that methods are compared on the same ones."""
    first, second = (Omniglot(image_file, ways=3, size=8) for _ in range(2))
    drawn = []
    for family in (first, second):
        rng = np.random.default_rng(5)
        batch = family.sample(rng, 2, 1, 4, "test")
        drawn.append([*batch, *family.augment(rng, batch.query_x, batch.query_y)])
    assert all(np.array_equal(a, b) for a, b in zip(*drawn, strict=True))


def test_turned_classes_are_turned_images(image_file: Path) -> None:
    """Every image of a class in a task has the same turn, no two turns of one class meet, and all turns occur."""
    family, plain = Omniglot(image_file, ways=10, size=8, turned=True), Omniglot(image_file, ways=10, size=8)
    assert family.name == "omniglot:ways=10,size=8,turned=true"
    batch, seen = family.sample(np.random.default_rng(0), 20, 2, 3, "train"), set()
    for task in range(20):
        x, y = (np.concatenate(pair) for pair in zip(batch.support_x, batch.query_x, strict=True)), batch.support_y
        pictures = list(x)[task]
        turns, classes = turns_of(pictures, plain)
        assert len(set(classes)) == 10
        assert (turns == np.tile(turns[:10], 5)).all()
        assert y[task, 3] == 3
        seen |= set(turns)
    assert seen == {0, 1, 2, 3}


def turns_of(pictures: NDArray, plain: ImageEpisodes) -> tuple[NDArray, NDArray]:
    """How often each image was turned counter-clockwise, and its class."""
    stored = {image.tobytes(): number // 8 for number, image in enumerate(plain.images)}
    turns, classes = [], []
    for picture in np.rint(pictures * 255).astype(np.uint8):
        back = [np.ascontiguousarray(np.rot90(picture, -k, (1, 2))).tobytes() for k in range(4)]
        turns.append(next(k for k in range(4) if back[k] in stored))
        classes.append(stored[back[turns[-1]]])
    return np.array(turns), np.array(classes)


def test_names_lead_back_to_the_family(image_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name has every option but the file, whose path the environment gives."""
    monkeypatch.setenv("MSR_OMNIGLOT", str(image_file))
    family = load_family(f"omniglot:ways=3,turned=true,size=8,angle=any,file={image_file}")
    assert isinstance(family, Omniglot)
    assert family.name == "omniglot:ways=3,size=8,turned=true,angle=any"
    again = load_family(family.name)
    assert again.name == family.name
    assert np.array_equal(
        again.sample(np.random.default_rng(0), 1, 1, 1, "test").query_x,
        family.sample(np.random.default_rng(0), 1, 1, 1, "test").query_x,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("ways=1", r"ways is 1, but it must be at least 2.*set ways from 2 to 12"),
        ("ways=1,split=background", r"ways is 1.*'validation' has 4 classes; set ways from 2 to 4"),
        ("ways=13", r"ways is 13.*'train' has 12 classes"),
        ("ways=5,split=background", r"ways is 5.*'validation' has 4 classes"),
        ("ways=many", r"ways is 'many', but a whole number is wanted"),
        ("split=mine", "split is 'mine', but it must be vinyals or background"),
        ("size=9", r"size is 9.*8 x 8 pixels.*set size from 4 to 8"),
        ("size=3", "size is 3"),
        ("turned=yes", "turned is 'yes', but it must be true or false"),
        ("angle=200", "angle is 200, but it must be the largest turn in degrees, from 0 to 180, or 'quarter'"),
        ("angle=half", "angle is 'half'"),
        ("angle=true", "angle is True"),
        ("flips=up", "flips is 'up', but it must be one of none, left-right, both"),
        ("crop=0", "crop is 0, but it must be the least share"),
        ("shots=1", r"omniglot has no option 'shots'\. Its options are file, ways"),
        ("file=/nowhere.npz", r"'/nowhere.npz' does not exist.*option file"),
    ],
)
def test_wrong_options_are_refused_by_name(
    image_file: Path, monkeypatch: pytest.MonkeyPatch, options: str, words: str
) -> None:
    """When the family is made, and not in the middle of a training."""
    monkeypatch.setenv("MSR_OMNIGLOT", str(image_file))
    with pytest.raises(FamilyError, match=words):
        load_family(f"omniglot:{options}" if "size" in options else f"omniglot:{options},size=8")


def test_a_file_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the option and the environment variable."""
    monkeypatch.delenv("MSR_IMAGES", raising=False)
    with pytest.raises(FamilyError, match=r"option file, as in images:file=path.*MSR_IMAGES"):
        load_family("images")


def test_more_images_than_a_class_has_are_refused(image_file: Path) -> None:
    """8 images of each class: 8 shots leave no query."""
    with pytest.raises(FamilyError, match=r"8 shots and 1 queries per class.*has 8 images.*--settings.shots"):
        Omniglot(image_file, ways=3, size=8).sample(np.random.default_rng(0), 1, 8, 1, "train")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda orders: orders % 63, "element 0 is no order of the 64 numbers of the inputs"),
        (lambda orders: orders[:, :63], "element 0 is no order of the 64 numbers"),
        (lambda orders: orders[[1, 0, 2, 3]], "element 0 is not the identity on the inputs"),
        (lambda orders: orders[:3], "3 elements act on the inputs, but 4 on the outputs"),
        (lambda orders: orders[[0, 1, 1, 3]], "elements 1 and 2 are the same"),
        (lambda orders: np.stack([*orders[:3], np.roll(orders[0], 1)]), "element 1 times element 2 equals no element"),
    ],
)
def test_orders_that_are_no_group_are_refused(image_file: Path, broken: Any, words: str) -> None:
    """As matrices are."""
    family = Images(image_file, ways=3)
    group = family.group()
    family.group = lambda: group._replace(inputs=broken(group.inputs.argmax(2)))
    with pytest.raises(FamilyError, match=words):
        check_family(family)
