"""`LogFamily` keeps the contract of a family, whatever the lengths of the drives."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from msr_envs.checking.family import check_family
from msr_envs.logs import LogFamily, SymmetricLogFamily, log_family
from msr_envs.registry import load_family
from msr_runtime.errors import FamilyError
from msr_runtime.families import FiniteFamily, StreamFamily, UnevenFamily, takes_windows
from msr_runtime.meta.training.symmetry_test import check_augmentation
from msr_runtime.task import SymmetricFamily
from tests.envs.logs.conftest import as_csv, described, drive

MIRROR = {
    "symmetry": "mirror",
    "inputs": [
        {
            "name": "speed",
            "columns": ["left", "right"],
            "unit": "m/s",
            "representation": {"kind": "parts", "cycles": {"mirror": [["left", "right"]]}},
        }
    ],
    "outputs": [{"name": "yaw_rate", "unit": "rad/s", "representation": "pseudoscalar"}],
}


def generator(seed: int = 0) -> np.random.Generator:
    """A new generator for each use."""
    return np.random.default_rng(seed)


@pytest.mark.parametrize("query", ["after", "anywhere"])
def test_the_contract_is_kept(cart, query: str) -> None:
    family = log_family(described(query=query, gap=0), cart(20, 25, 70, 200))
    assert check_family(family) == "family 'cart' keeps the contract"
    assert isinstance(family, FiniteFamily)
    assert isinstance(family, StreamFamily)
    assert isinstance(family, UnevenFamily)
    assert not isinstance(family, SymmetricFamily)
    assert takes_windows(family) == (query == "after")
    assert (family.examples, family.rate_hz) == (19, 10.0)


def test_a_yaml_file_is_a_family(cart) -> None:
    folder = cart()
    (folder / "cart.yaml").write_text(
        "files: drive_*.csv\nhorizon: 1\ninputs: [{name: left}]\noutputs: [{name: yaw_rate}]\n"
    )
    family = load_family(str(folder / "cart.yaml"))
    assert (family.name, len(family.inputs)) == ("cart", 1)
    assert isinstance(family, LogFamily)
    assert family.notes == ("4 drives with 236 samples", "columns that are not read: time, right")


def test_queries_follow_the_support_in_the_drive(cart) -> None:
    family = log_family(described(horizon=2, gap=3), cart())
    columns = drive(int(family.split_names("test")[0][-1]))
    batch = family.sample(generator(), 1, 5, 10, "test")
    start = int(np.flatnonzero(columns["left"].astype(np.float32) == batch.support_x[0, 0, 0])[0])
    both = np.stack([columns["left"], columns["right"]], 1).astype(np.float32)
    assert_array_equal(batch.support_x[0], both[start : start + 5])
    assert_array_equal(batch.support_y[0, :, 0], columns["yaw_rate"][start + 2 : start + 7].astype(np.float32))
    # the support has seen up to row start + 4 + 2, and the gap is three rows
    assert_array_equal(batch.query_x[0], both[start + 9 : start + 19])


def test_each_task_comes_once_before_one_comes_twice(cart) -> None:
    family = log_family(described(), cart(*[30] * 10))
    batch = family.sample(generator(), 8, 25, 1, "train")
    assert len({batch.support_x[task].tobytes() for task in range(8)}) == 8


def test_queries_repeat_where_a_drive_is_short(cart) -> None:
    family = log_family(described(), cart(12, 12, 12))
    batch = family.sample(generator(), 1, 8, 32, "train")
    assert len(np.unique(batch.query_x[0], axis=0)) == 3
    with pytest.raises(
        FamilyError, match=r"task 'drive_\d' has 11 samples.*but 11 support.*--settings.shots.*shortest: 12"
    ):
        family.sample(generator(), 1, 11, 1, "train")


def test_short_drives_are_left_out_and_named(cart) -> None:
    family = log_family(described(shortest=30), cart(60, 8, 60, 60, 20))
    assert family.task_names == ("drive_0", "drive_2", "drive_3")
    assert family.notes[1] == "left out, with fewer than 30 samples: drive_1 (7), drive_4 (19)"
    with pytest.raises(FamilyError, match=r"no drive has 100 samples; left out.*drive_0 .59.*lower `shortest`"):
        log_family(described(shortest=100), cart())


def test_what_is_left_out_is_said(cart) -> None:
    folder = cart()
    columns = drive(9)
    columns["left"][5] = columns["right"][7] = np.nan
    columns["time"][30:] += 5
    (folder / "drive_9.csv").write_text(as_csv(columns))
    notes = log_family(described(), folder).notes
    assert notes[1] == "2 samples hold a value that is not finite and are left out; rows with one: speed 2"
    assert notes[2] == "the time has 1 dropouts, and 1 samples that span one are left out"


def test_a_column_tells_drives_and_tasks_apart(cart) -> None:
    folder = cart()
    rows = [
        drive(seed) | {"run": np.full(60, seed), "place": np.array(["ice", "mud", "sand"])[[seed % 3] * 60]}
        for seed in range(6)
    ]
    whole = {name: np.concatenate([each[name] for each in rows]) for name in rows[0]}
    (folder / "all.csv").write_text(as_csv(whole))
    family = log_family(described(files="all.csv", drive="run"), folder)
    assert family.task_names == tuple("012345")
    assert "place" in family.notes[-1]
    grouped = log_family(described(files="all.csv", drive="run", task="place"), folder)
    assert grouped.task_names == ("ice", "mud", "sand")
    assert grouped.examples == 59  # a window lies in one drive
    assert log_family(described(files="all.csv", drive="run", task="place", query="anywhere"), folder).examples == 118
    with pytest.raises(FamilyError, match="drive 'all' belongs to 3 tasks, ice and mud"):
        log_family(described(files="all.csv", task="place", time=None), folder)
    with pytest.raises(FamilyError, match=r"drive names the column 'runs'.*Did you mean 'run'"):
        log_family(described(files="all.csv", drive="runs"), folder)


def test_files_have_to_agree(cart) -> None:
    folder = cart()
    both = [{"name": "speed", "columns": "*t"}]
    (folder / "drive_9.csv").write_text(
        as_csv({name: drive(9)[name] for name in ("time", "right", "left", "yaw_rate")})
    )
    with pytest.raises(
        FamilyError, match=r"drive_9.csv': field 'speed' holds right, left, but in .*drive_0.csv.*left, right"
    ):
        log_family(described(inputs=both), folder)


def test_a_symmetry_is_declared_by_fields(cart) -> None:
    family = log_family(described(**MIRROR), cart())
    assert isinstance(family, SymmetricLogFamily)
    assert isinstance(family, SymmetricFamily)
    assert check_family(family).splitlines() == [
        "family 'cart' keeps the contract, group C2",
        "mirror: left ↔ right; of the outputs: yaw_rate → −yaw_rate",
    ]
    with pytest.raises(FamilyError, match=r"field 'yaw_rate'.*how"):
        log_family(described(**MIRROR | {"outputs": [{"name": "yaw_rate"}]}), cart())


def test_the_mirror_is_tested_on_the_long_drives(cart) -> None:
    family = log_family(described(**MIRROR), cart(60, *[600] * 4))
    report = check_augmentation(family, generator())
    assert (report.verdict, report.samples) == ("holds", 256)
    short = described(**MIRROR, files=["drive_0.csv", "drive_1.csv", "drive_2.csv"])
    assert check_augmentation(log_family(short, cart(60, 60, 60)), generator()).samples == 29


def test_the_last_value_is_known(cart) -> None:
    inputs = [{"name": "turning", "columns": "yaw_rate"}, {"name": "speed", "columns": ["left", "right"]}]
    outputs = [
        {"name": "yaw_rate"},
        {"name": "change", "columns": "left", "difference": True},
        {"name": "next", "columns": "time"},
    ]
    family = log_family(described(inputs=inputs, outputs=outputs), cart())
    batch = family.sample(generator(), 1, 5, 6, "test")
    guessed = family.last_value(batch.support_y[0], batch.query_x[0])
    assert_array_equal(guessed[:, 0], batch.query_x[0, :, 0])
    assert_array_equal(guessed[:, 1], 0)
    assert_array_equal(guessed[:, 2], batch.support_y[0, -1, 2])


def test_lags_angles_and_vectors_become_fields(cart) -> None:
    inputs = [
        {"name": "speed", "columns": ["left", "right"], "lags": [0, 2], "low": -9, "high": 9},
        {"name": "heading", "columns": "left", "cosine_sine": True},
        {"name": "angle", "columns": "right", "wraps": 360, "unit": "deg"},
        {"name": "velocity", "columns": ["left", "right", "right", "left"], "body_frame": "time"},
    ]
    family = log_family(described(inputs=inputs), cart())
    assert [(field.name, field.shape) for field in family.inputs] == [
        ("speed", (2,)),
        ("speed_lag2", (2,)),
        ("heading", (2,)),
        ("angle", (1,)),
        ("velocity", (2, 2)),
    ]
    speed, _, heading, angle, _ = family.inputs
    assert (speed.low, speed.high, speed.names) == (-9, 9, ("left", "right"))
    assert (heading.low, heading.high, heading.names) == (-1, 1, ("cos left", "sin left"))
    assert (angle.wraps, round(angle.high - angle.low)) == (360, 360)
    check_family(family)
    with pytest.raises(FamilyError, match="field 'v' holds 1 numbers, but body_frame turns pairs"):
        log_family(described(inputs=[{"name": "v", "columns": "left", "body_frame": "time"}]), cart())
    with pytest.raises(FamilyError, match="field 'speed': names are a, b, c, but each of its 2 elements"):
        log_family(
            described(inputs=[{"name": "speed", "columns": ["left", "right"], "names": ["a", "b", "c"]}]), cart()
        )
