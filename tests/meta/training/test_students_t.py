"""Student's t of few tasks: no larger than it would be as sure with many."""

import numpy as np
import pytest

from msr_runtime.meta.training.students_t import paired_t


@pytest.mark.parametrize(
    ("tasks", "t", "as_sure"),
    # quantiles of the one-sided probability 0.001: by Student's tables, 3.485 is that of 23 degrees of freedom
    [(4, 10.215, 3.485), (6, 5.893, 3.485), (12, 4.025, 3.485), (24, 3.485, 3.485), (48, 3.0, 3.0)],
)
def test_the_same_certainty_has_the_same_t(tasks: int, t: float, as_sure: float) -> None:
    """Up to what Wallace's approximation leaves for very few tasks."""
    spread = np.tile([-1.0, 1.0], tasks // 2)
    mean = t * spread.std(ddof=1) / np.sqrt(tasks)
    assert paired_t((spread + mean)[:, None])[0] == pytest.approx(as_sure, rel=0.04)
    assert paired_t((spread - mean)[:, None])[0] == pytest.approx(-as_sure, rel=0.04)


def test_one_task_says_nothing() -> None:
    """It has no spread."""
    assert paired_t(np.ones((1, 2))).tolist() == [0.0, 0.0]
