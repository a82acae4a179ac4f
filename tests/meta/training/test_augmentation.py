"""Augmentation in training: it touches queries only."""

import numpy as np

from msr_envs.registry import load_family
from msr_envs.ring_nav.family import RingNav
from msr_runtime.meta.training.augmentation import augment_queries, augments


def test_algorithm_2_leaves_the_support_alone() -> None:
    """The support set stays the same bit for bit. Equal seeds move the queries alike."""
    family = RingNav()
    batch = family.sample(np.random.default_rng(0), 3, 4, 8, "train")
    first, second = (augment_queries(family, np.random.default_rng(1), batch) for _ in range(2))
    np.testing.assert_array_equal(first.support_x, batch.support_x)
    np.testing.assert_array_equal(first.support_y, batch.support_y)
    np.testing.assert_array_equal(first.query_x, second.query_x)
    assert not np.array_equal(first.query_x, batch.query_x)
    speeds = [np.linalg.norm(queries, axis=-1) for queries in (first.query_y, batch.query_y)]
    np.testing.assert_allclose(*speeds, rtol=1e-5)
    assert [a.dtype for a in first] == [a.dtype for a in batch]


def test_an_augmentation_that_changes_nothing_is_recognized(training) -> None:
    """The synthetic problems have none. One that writes into its arguments still counts."""

    class InPlace(training.Plane):
        def augment(self, rng, x, y) -> tuple[np.ndarray, np.ndarray]:
            x *= -1
            y *= -1
            return x, y

    assert augments(training.Plane())
    assert augments(InPlace())
    assert not augments(load_family("rank1"))
