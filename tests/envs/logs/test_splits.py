"""Each task is in one split, and the same names give the same splits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msr_envs.logs.description import LogSplit
from msr_envs.logs.splits import divide
from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS

NAMES = [f"{place}_{i}" for place in ("asphalt", "snow") for i in range(10)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=5), min_size=3, max_size=40, unique=True), st.floats(0.01, 0.3), st.floats(0.01, 0.3))
def test_no_task_is_in_two_splits(names: list[str], validation: float, test: float) -> None:
    said = LogSplit(validation=validation, test=test)
    divided = divide("x", names, said)
    assert sorted(index for members in divided.values() for index in members) == list(range(len(names)))
    assert all(divided.values())
    by_name = {split: {names[i] for i in members} for split, members in divided.items()}
    turned = divide("x", names[::-1], said)
    assert {split: {names[::-1][i] for i in members} for split, members in turned.items()} == by_name


def test_shares_mix_the_places() -> None:
    divided = divide("x", NAMES, LogSplit(validation=0.2, test=0.2))
    assert [len(divided[split]) for split in SPLITS] == [12, 4, 4]
    assert {NAMES[i].split("_")[0] for i in divided["test"]} == {"asphalt", "snow"}


def test_a_new_task_moves_few_others() -> None:
    said = LogSplit(validation=0.2, test=0.2)
    before, after = divide("x", NAMES, said), divide("x", [*NAMES, "snow_10"], said)
    assert sum(len(set(before[split]) - set(after[split])) for split in SPLITS) <= 2


def test_tasks_are_named_by_patterns() -> None:
    divided = divide("x", NAMES, LogSplit(test="snow_*", validation=("asphalt_1", "asphalt_2"), train="asphalt_3"))
    assert divided["test"] == list(range(10, 20))
    assert (divided["validation"], divided["train"]) == ([1, 2], [3])


@pytest.mark.parametrize(
    ("names", "said", "words"),
    [
        (["a", "b"], LogSplit(), "there are 2 tasks, a, b, but each of train, validation, test needs at least one"),
        (NAMES, LogSplit(test="snw_1"), "split.test names the task 'snw_1', but there are .*Did you mean 'snow_1'"),
        (NAMES, LogSplit(test="snow_*", train="snow_1"), "names the task 'snow_1' for train and for test"),
        (NAMES, LogSplit(test="*", validation=0.1), "no task is left for"),
        (NAMES[:3], LogSplit(test=0.9, validation=0.1), "no task is left for train, of 3"),
    ],
)
def test_a_split_that_cannot_be_is_refused(names: list[str], said: LogSplit, words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        divide("x", names, said)
