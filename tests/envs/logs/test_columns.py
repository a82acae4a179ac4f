"""What a field says of its columns is computed at each row."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from msr_envs.logs.columns import Columns, derive, matching
from msr_envs.logs.description import LogField
from msr_envs.logs.table import Arrays
from msr_runtime.errors import FamilyError

TABLE = Arrays(
    Path("x.npz"),
    {
        "joint_2": np.array([2.0, 3.0]),
        "joint_10": np.array([10.0, 11.0]),
        "state": np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        "pose.yaw": np.array([0.5, 0.6]),
    },
)


@pytest.mark.parametrize(
    ("wanted", "names", "first"),
    [
        (["joint_*"], ["joint_2", "joint_10"], [2, 10]),
        (["joint_?"], ["joint_2"], [2]),
        (["state"], ["a", "b", "c"], [1, 2, 3]),
        (["state[2]", "joint_2", "state.a"], ["c", "joint_2", "a"], [3, 2, 1]),
        (["pose.yaw"], ["pose.yaw"], [0.5]),
    ],
)
def test_columns_are_found(wanted: list[str], names: list[str], first: list[float]) -> None:
    columns = Columns(TABLE, {"state": ("a", "b", "c")})
    sources = columns.find(wanted, "field")
    assert [name for source in sources for name in columns.element_names(source)] == names
    assert np.concatenate([columns.numbers(source)[0] for source in sources]).tolist() == first
    assert columns.used == {source.column for source in sources}


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("joint2", "field wants the column 'joint2', but there are joint_2, .*Did you mean 'joint_2'"),
        ("yaw", "Did you mean 'pose.yaw'"),
        ("leg_*", r"wants the column 'leg_\*', but there are joint_2, joint_10, state, pose.yaw\.$"),
        ("state[3]", "names 'state.3.', but the column holds 3 numbers, from 0"),
    ],
)
def test_a_missing_column_is_answered_with_near_ones(wanted: str, words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        Columns(TABLE, {}).find([wanted], "field")


def test_brackets_of_a_pattern_mean_themselves() -> None:
    assert matching("a[0]*", ["a[0]", "a0", "a[0].x"]) == ["a[0]", "a[0].x"]


def at(field: LogField, values: object, yaw: object = None, ahead: int = 0, before: int = 0) -> list[list[float]]:
    """What the field holds at each row."""
    turn = None if yaw is None else np.array(yaw, np.float64)
    return derive(field, np.array(values, np.float64), ahead=ahead, before=before, yaw=turn).tolist()


def test_lags_and_horizons_have_no_value_beyond_the_ends() -> None:
    field = LogField(name="a")
    values = [[1.0], [2.0], [3.0]]
    assert str(at(field, values, ahead=1)) == "[[2.0], [3.0], [nan]]"
    assert str(at(field, values, ahead=-2)) == "[[nan], [nan], [1.0]]"
    assert str(at(field, values, ahead=9)) == "[[nan], [nan], [nan]]"


def test_a_difference_of_angles_is_the_short_way() -> None:
    field = LogField(name="a", difference=True, wraps=360)
    assert at(field, [[350.0], [10.0], [350.0]], ahead=1)[:2] == [[20.0], [-20.0]]
    assert at(LogField(name="a", difference=True), [[350.0], [10.0]], ahead=1)[0] == [-340.0]


def test_an_angle_becomes_cosine_and_sine() -> None:
    assert_allclose(at(LogField(name="a", cosine_sine=True), [[0.0, math.pi / 2]]), [[1, 0, 0, 1]], atol=1e-12)
    assert_allclose(at(LogField(name="a", cosine_sine=True, wraps=360), [[90.0]]), [[0, 1]], atol=1e-12)


def test_a_robot_that_drives_ahead_moves_along_x_of_its_body() -> None:
    yaw = np.linspace(0, 6, 50)
    position = np.cumsum(np.stack([np.cos(yaw), np.sin(yaw)], 1), 0) - [np.cos(0), 0]
    field = LogField(name="step", difference=True, body_frame="yaw")
    moved = np.array(at(field, position, yaw=np.append(yaw[1:], 0.0), ahead=1))
    assert_allclose(moved[:-1], np.tile([1.0, 0.0], (49, 1)), atol=1e-12)


def test_several_vectors_are_turned_each() -> None:
    turned = at(LogField(name="v", body_frame="yaw"), [[1.0, 0.0, 0.0, 2.0]], yaw=[math.pi / 2])
    assert_allclose(turned, [[0, -1, 2, 0]], atol=1e-12)
