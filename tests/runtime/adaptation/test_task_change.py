"""A change of the task is two surprising samples after a calm time: no outlier, no first sample, no strange robot."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from msr_runtime.adaptation.task_change import ChangeDetector


def first_alarm(surprises: list[float]) -> int | None:
    """The index of the sample at which a change is noticed."""
    detector = ChangeDetector()
    return next((index for index, each in enumerate(surprises) if detector.add(each)), None)


def test_two_surprising_samples_are_a_change() -> None:
    assert first_alarm([1.0] * 20 + [50.0, 50.0]) == 21


@given(st.floats(10, 1e30), st.integers(0, 20))
def test_one_outlier_is_none_however_large(size: float, calm: int) -> None:
    assert first_alarm([1.0] * (12 + calm) + [size] + [1.0] * 20) is None


@given(st.floats(10, 1e30), st.integers(1, 8))
def test_outliers_with_calm_samples_between_them_are_none(size: float, between: int) -> None:
    """A sensor with one outlier in twenty has two within eight samples every few seconds."""
    assert first_alarm([1.0] * 20 + ([size] + [1.0] * between) * 5) is None


def test_the_first_samples_may_surprise() -> None:
    """Every task surprises until the network has seen some of it."""
    assert first_alarm([30.0] * 9 + [1.0] * 20) is None


def test_a_robot_that_was_never_explained_has_not_changed() -> None:
    assert first_alarm([6.0] * 200) is None


def test_usual_surprises_are_no_change() -> None:
    """The mean of two squared normal numbers, over many tasks of 400 samples."""
    draws = np.random.default_rng(0).chisquare(2, (200, 400)) / 2
    assert sum(first_alarm(row) is not None for row in draws.tolist()) <= 2


def test_a_task_that_begins_is_judged_by_its_own_samples() -> None:
    detector = ChangeDetector()
    for _ in range(20):
        detector.add(1.0)
    detector.begin_task()
    assert not any(detector.add(50.0) for _ in range(5))
