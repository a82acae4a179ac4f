"""The test whether splits share tasks: lists are found, ranges are not called lists, and built-in robots pass."""

import numpy as np
import pytest

from msr_envs.registry import load_family
from msr_runtime.meta.training.split_test import SplitReport, check_splits
from msr_runtime.task import SPLITS, Split, TaskBatch

GAINS = np.array([0.3, 0.6, 0.9, 1.5])


def found(family: object) -> SplitReport:
    report = check_splits(family, np.random.default_rng(0))  # type: ignore[arg-type]
    assert report is not None
    return report


@pytest.fixture
def gains(training):  # noqa: ANN201
    """A function that makes a family whose tasks are gains."""

    def make(gains, noise: float = 0.0):  # noqa: ANN202
        class Gains(training.Plane):
            def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
                rng = np.random.default_rng([SPLITS.index(split), *rng.integers(2**32, size=4)])
                drawn = rng.uniform(0.5, 1.5, tasks) if gains is None else rng.choice(gains[split], tasks)
                x = rng.uniform(-1, 1, (tasks, shots + queries, 2))
                y = np.tanh(2 * drawn[:, None, None] * x) + noise * rng.normal(size=x.shape)
                x, y = x.astype(np.float32), y.astype(np.float32)
                return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

        return Gains()

    return make


@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_a_list_that_all_splits_draw_from_is_found(gains, noise: float) -> None:
    report = found(gains(dict.fromkeys(SPLITS, GAINS), noise))
    assert report.shared
    assert "of 24 tasks of the split 'test' seem to be among 24 tasks of 'train'" in report.doubt()


def test_lists_of_their_own_and_ranges_pass(gains) -> None:
    """Also a range with noise, in which many pairs of tasks cannot be told apart."""
    own = {"train": GAINS[::2], "validation": GAINS[1:2], "test": GAINS[1::2]}
    for family in (gains(own), gains(None), gains(None, 0.01), gains(None, 0.05), gains(None, 0.3)):
        assert not found(family).shared


@pytest.mark.parametrize("name", ["ring-nav", "hex-drive", "hex-weak-thruster"])
def test_built_in_robots_share_no_tasks(name: str) -> None:
    assert not found(load_family(name)).shared
