"""The support is followed by the queries, in one drive."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from msr_envs.logs.windows import Anywhere, Windows

DRIVES = st.lists(st.integers(1, 30), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(DRIVES, st.integers(0, 5), st.integers(1, 12), st.integers(0, 30), st.integers(0, 99))
def test_a_window_lies_in_one_drive(drives: list[int], between: int, shots: int, queries: int, seed: int) -> None:
    windows = Windows(between)
    if shots + min(queries, 1) > windows.holds(drives):
        return
    support, query = windows.draw(np.random.default_rng(seed), drives, shots, queries)
    assert np.diff(support).tolist() == [1] * (shots - 1)
    assert len(query) == queries
    used = np.concatenate([support, query])
    drive = np.repeat(np.arange(len(drives)), drives)
    assert len(set(drive[used].tolist())) == 1
    if queries:
        assert query[0] == support[-1] + 1 + between
        distinct = len(set(query.tolist()))
        assert query[:distinct].tolist() == list(range(query[0], query[0] + distinct))
        assert distinct == min(queries, drives[drive[query[0]]] - shots - between)


def test_every_window_that_fits_comes_as_often() -> None:
    rng, drives = np.random.default_rng(0), [3, 8, 6]
    first = [int(Windows(1).draw(rng, drives, 2, 3)[0][0]) for _ in range(3000)]
    starts, counts = np.unique(first, return_counts=True)
    assert starts.tolist() == [3, 4, 5, 11]
    assert counts.min() > 650


@settings(max_examples=100, deadline=None)
@given(DRIVES, st.integers(1, 12), st.integers(1, 30), st.integers(0, 99))
def test_samples_from_anywhere_are_in_one_set_only(drives: list[int], shots: int, queries: int, seed: int) -> None:
    if shots >= Anywhere().holds(drives):
        return
    support, query = Anywhere().draw(np.random.default_rng(seed), drives, shots, queries)
    assert len(set(support.tolist())) == shots
    assert not set(support.tolist()) & set(query.tolist())
    assert len(set(query.tolist())) == min(queries, sum(drives) - shots)
