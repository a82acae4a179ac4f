"""`msr score` as a user runs it: on descriptions of logs, recordings and arrays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel
from msr_runtime.recording.recorder import Recorder

Msr = Callable[..., int]
LOGS = """
files: drive_*.csv
name: linear
horizon: {horizon}
{time}
inputs:
  - {{name: position, columns: [px, py], unit: m}}
  - {{name: angle, unit: rad}}
outputs:
  - {{name: force, columns: [fx, fy], unit: N}}
"""


@pytest.fixture
def samples(linear: Any) -> tuple[np.ndarray, np.ndarray]:
    """Forty samples of a robot whose v is v0 plus 0.3."""
    x = np.random.default_rng(1).standard_normal((800, 3)).astype(np.float32)
    y = linear.predict(linear.v0 + np.float32(0.3), x)
    inside = np.flatnonzero((np.abs(y) < 10).all(1))[:40]
    return x[inside], y[inside]


def write_csv(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    """One row per sample, ten per second."""
    rows = np.column_stack([np.arange(len(x)) / 10, x, y])
    np.savetxt(path, rows, fmt="%.9g", delimiter=",", header="time,px,py,angle,fx,fy", comments="")


def figures(path: Path) -> dict[str, Any]:
    (found,) = json.loads(path.read_text())
    return found


def test_each_kind_of_log_gives_the_same_score(
    tmp_path: Path, bundle_path: Path, samples: tuple[np.ndarray, np.ndarray], capsys: Any, msr: Msr
) -> None:
    """Rows with their y, a recording and arrays hold the same samples. The output says whether adapting helps."""
    x, y = samples
    write_csv(tmp_path / "drive_0.csv", x, y)
    (tmp_path / "logs.yaml").write_text(LOGS.format(horizon=0, time="time: time"))
    np.savez(tmp_path / "log.npz", x=x, y=y, time=np.arange(len(x)) / 10)
    with Recorder(tmp_path / "log.mcap", AdaptiveModel.load(bundle_path)) as recorder:
        for index, pair in enumerate(zip(x, y, strict=True)):
            recorder.sample(*pair, stamp=index * 10**8)
    found = []
    for log in ("logs.yaml", "log.npz", "log.mcap"):
        assert msr("score", tmp_path / log, bundle_path, "--window", 5, "--json", tmp_path / f"{log}.json") == 0
        found.append(figures(tmp_path / f"{log}.json"))
        out = capsys.readouterr().out
        for words in ("40 samples in 1 drives", "  adapting", "  no adaptation", "  last value", "output force[1]"):
            assert words in out
    for each in found[1:]:
        np.testing.assert_allclose(list(each["errors"].values()), list(found[0]["errors"].values()), rtol=1e-4)
    assert found[0]["errors"]["adapted"] < found[0]["errors"]["v0"]
    assert found[0]["by_stretch"]["adapted"][2] is None  # no drive has more than 100 samples


def test_a_y_of_later_rows_is_known_when_they_come(
    tmp_path: Path, bundle_path: Path, samples: tuple[np.ndarray, np.ndarray], msr: Msr
) -> None:
    """With a horizon of 3 rows, the last value is the one of three rows before."""
    x, y = samples
    write_csv(tmp_path / "drive_0.csv", x[3:], y[:-3])
    for time in ("time: time", "rate_hz: 10"):
        (tmp_path / "logs.yaml").write_text(LOGS.format(horizon=3, time=time))
        assert msr("score", tmp_path / "logs.yaml", bundle_path, "--json", tmp_path / "score.json") == 0
        found = figures(tmp_path / "score.json")
        # the y of x number i is fx of row i + 3; three rows before, the last known y is that of x number i - 3
        target = y[3:-3]
        last = np.concatenate([np.broadcast_to([1.0, -1.0], (3, 2)), target[:-3]])
        assert found["samples"] == len(target) == 34
        np.testing.assert_allclose(found["errors"]["last"], np.mean((last - target) ** 2 / target.var(0)), rtol=1e-4)


def test_drives_of_an_array_and_tasks_of_a_recording_begin_anew(
    tmp_path: Path, bundle_path: Path, samples: tuple[np.ndarray, np.ndarray], msr: Msr
) -> None:
    """One more axis counts drives; a reset begins a task."""
    x, y = samples
    np.savez(tmp_path / "log.npz", x=x.reshape(2, 20, 3), y=y.reshape(2, 20, 2))
    with Recorder(tmp_path / "log.mcap", AdaptiveModel.load(bundle_path)) as recorder:
        for index, pair in enumerate(zip(x, y, strict=True)):
            if index == 20:
                recorder.reset()
            recorder.sample(*pair, stamp=index * 10**7)
    for log in ("log.npz", "log.mcap"):
        assert msr("score", tmp_path / log, bundle_path, "--json", tmp_path / "score.json") == 0
        assert (figures(tmp_path / "score.json")["drives"], figures(tmp_path / "score.json")["samples"]) == (2, 40)


def test_a_filter_takes_the_robots_time_constant_and_notices_another_task(
    tmp_path: Path, recursive_bundle: Path, capsys: Any, msr: Msr
) -> None:
    """As on the robot. A bundle of another rule has no time constant."""
    x = np.random.default_rng(0).uniform(0, 1, (80, 18))
    y = 0.1 * x[:, :2]
    y[40:] = 0.9 - y[40:]
    np.savez(tmp_path / "log.npz", x=x, y=y, time=np.arange(80) / 10)
    found = []
    for more in ([], ["--time-constant", 0.5]):
        assert msr("score", tmp_path / "log.npz", recursive_bundle, *more, "--json", tmp_path / "score.json") == 0
        found.append(figures(tmp_path / "score.json"))
    assert "changes of the task noticed: 1" in capsys.readouterr().out
    assert found[0]["restarts"] == 1
    assert found[0]["errors"]["adapted"] != found[1]["errors"]["adapted"]


def test_a_batch_has_no_time_constant(tmp_path: Path, bundle_path: Path, capsys: Any, msr: Msr) -> None:
    """It is said, and not ignored."""
    np.savez(tmp_path / "log.npz", x=np.zeros((5, 3)), y=np.zeros((5, 2)))
    assert msr("score", tmp_path / "log.npz", bundle_path, "--time-constant", 2) == 2
    assert "which has no time" in capsys.readouterr().err


def test_one_split_of_a_description(
    tmp_path: Path, bundle_path: Path, samples: tuple[np.ndarray, np.ndarray], msr: Msr
) -> None:
    """Drives are tasks, and those of a split are scored."""
    for index in range(4):
        write_csv(tmp_path / f"drive_{index}.csv", *samples)
    text = LOGS.format(horizon=0, time="") + "split: {test: drive_2, validation: drive_1}\n"
    (tmp_path / "logs.yaml").write_text(text)
    for split, drives in (("test", 1), ("train", 2)):
        assert msr("score", tmp_path / "logs.yaml", bundle_path, "--split", split, "--json", tmp_path / "s.json") == 0
        assert figures(tmp_path / "s.json")["drives"] == drives


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("log.csv", {}, "a .csv file needs a description of logs"),
        ("absent.npz", None, "there is no file"),
        ("log.npz", {"x": np.zeros((5, 3))}, "but not 'y'"),
        (
            "log.npz",
            {"x": np.zeros((5, 3)), "y": np.zeros((5, 2)), "time": np.zeros(4)},
            "one number per sample is wanted",
        ),
        ("log.npz", {"x": np.zeros((5, 4)), "y": np.zeros((5, 2))}, "but the bundle's samples have (3,)"),
        ("log.npz", {"x": np.zeros((2, 5, 3)), "y": np.zeros((3, 5, 2))}, "they do not pair"),
    ],
)
def test_a_log_that_cannot_be_scored_is_refused(
    tmp_path: Path, bundle_path: Path, name: str, arrays: Any, message: str, capsys: Any, msr: Msr
) -> None:
    """With one sentence that says what is wrong."""
    if arrays is not None:
        with (tmp_path / name).open("wb") as file:
            np.savez(file, **arrays)
    assert msr("score", tmp_path / name, bundle_path) == 2
    assert message in capsys.readouterr().err


def test_a_y_that_never_changes_says_so(tmp_path: Path, bundle_path: Path, capsys: Any, msr: Msr) -> None:
    """Over a variance of zero, no two errors can be compared."""
    np.savez(tmp_path / "log.npz", x=np.zeros((20, 3)), y=np.ones((20, 2)))
    assert msr("score", tmp_path / "log.npz", bundle_path) == 0
    assert "cannot be compared with no adaptation: y never changes" in capsys.readouterr().out


def test_logs_of_another_robot_are_refused(
    tmp_path: Path, bundle_path: Path, samples: tuple[np.ndarray, np.ndarray], capsys: Any, msr: Msr
) -> None:
    """The fields are compared by name, shape and unit, but not by the extremes of the data."""
    write_csv(tmp_path / "drive_0.csv", *samples)
    (tmp_path / "logs.yaml").write_text(LOGS.format(horizon=0, time="").replace("unit: N", "unit: kN"))
    assert msr("score", tmp_path / "logs.yaml", bundle_path) == 2
    assert "has the outputs force (2,) kN, but the bundle has force (2,) N" in capsys.readouterr().err
    assert msr("score", tmp_path / "logs.yaml", bundle_path, "--split", "test") == 2


def test_a_robot_without_simulators_scores_logs(
    tmp_path: Path, bundle_path: Path, samples: tuple[np.ndarray, np.ndarray], start_without: Any
) -> None:
    """Neither torch nor Gymnasium nor MuJoCo is imported."""
    write_csv(tmp_path / "drive_0.csv", *samples)
    (tmp_path / "logs.yaml").write_text(LOGS.format(horizon=0, time="time: time"))
    with start_without("score", tmp_path / "logs.yaml", bundle_path) as process:
        out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "no adaptation" in out
