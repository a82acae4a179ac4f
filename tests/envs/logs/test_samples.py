"""A moment is a sample if all its rows are there, are finite, and have no dropout between them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from msr_envs.logs import LogDescription
from msr_envs.logs.drives import Drive
from msr_envs.logs.samples import Samples, take_samples
from msr_runtime.errors import FamilyError


def taken(a: Any, time: Any = None, lags: Any = 0, horizon: int = 1, **changes: Any) -> Samples:
    """The samples of a drive with one column, which is x and y."""
    said = LogDescription.model_validate(
        {"files": "x", "horizon": horizon, "inputs": [{"name": "a", "lags": lags}], "outputs": [{"name": "a"}]}
        | changes
    )
    values = np.array(a, np.float64)[:, None]
    moments = None if time is None else np.array(time, np.float64)
    return take_samples(said, Drive("d", Path("d.csv"), "d", (values, values), (None, None), moments))


def test_x_is_followed_by_y() -> None:
    samples = taken([0, 1, 2, 3, 4], lags=(0, 2), horizon=2)
    assert_array_equal(samples.x, [[2, 0]])
    assert_array_equal(samples.y, [[4]])


def test_a_value_that_is_missing_costs_the_moments_that_need_it() -> None:
    samples = taken([0, 1, np.nan, 3, 4, 5, np.inf, 7, 8])
    assert samples.x[:, 0].tolist() == [0, 3, 4, 7]
    assert (samples.broken, samples.fields) == (4, {"a": 2})


def test_a_number_that_float32_cannot_hold_is_missing() -> None:
    assert taken([0, 1, 1e300, 3, 4]).x[:, 0].tolist() == [0, 3]


def test_a_dropout_of_the_time_parts_moments() -> None:
    samples = taken(range(6), [0, 0.1, 0.2, 1.0, 1.1, 1.2], lags=(0, 1))
    assert samples.x.tolist() == [[1, 0], [4, 3]]
    assert (samples.dropouts, samples.across, samples.step) == (1, 2, pytest.approx(0.1))
    assert len(taken(range(6), [0, 0.1, 0.2, 1.0, 1.1, 1.2], largest_step=1).x) == 5
    assert len(taken(range(6), [0, 0.1, 0.2, 1.0, 1.1, 1.2], horizon=0).x) == 6


@pytest.mark.parametrize("time", [[0, 1, 2, 1, 2, 3], [0, 1, 2, 2, 3, 4], [0, 1, 2, np.nan, 3, 4]])
def test_a_time_that_goes_back_or_stands_is_a_dropout(time: list[float]) -> None:
    assert taken(range(6), time).dropouts >= 1


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ([0, 0, 0, 0], "moves by 0 s in its usual step.*tells them apart .drive."),
        ([3, 2, 1, 0], "moves by -1 s"),
        ([np.nan] * 4, "moves by nan s"),
        ([0, 1e8, 2e8, 3e8], r"moves by 1e\+08 in its usual step, which is no second.*ms or ns"),
    ],
)
def test_a_time_that_is_none_is_refused(time: list[float], words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        taken(range(4), time)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_every_moment_is_kept_or_counted(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 12))
    a = data.draw(st.lists(st.sampled_from([1.0, 2.0, np.nan]), min_size=rows, max_size=rows))
    steps = data.draw(st.lists(st.sampled_from([0.1, 0.1, 0.1, 5.0]), min_size=rows, max_size=rows))
    lag, horizon = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    samples = taken(a, np.cumsum(steps), lags=(lag,), horizon=horizon, largest_step=1)
    assert np.isfinite(samples.x).all()
    assert np.isfinite(samples.y).all()
    assert len(samples.x) + samples.broken + samples.across == max(0, rows - lag - horizon)
