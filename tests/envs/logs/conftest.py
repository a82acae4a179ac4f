"""Logs of a small cart: three or more drives, each with a gain of its own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs.logs import LogDescription, LogField

Columns = dict[str, NDArray[np.float64]]


def drive(seed: int, rows: int = 60) -> Columns:
    """A drive: time, wheel speeds and the yaw rate one row later, to which a gain of the drive turns them."""
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(2, rows)).round(3)
    yaw_rate = np.concatenate([[0.0], (1 + seed / 5) * (right - left)[:-1]]).round(4)
    return {"time": np.arange(rows) / 10, "left": left, "right": right, "yaw_rate": yaw_rate}


def as_csv(columns: Columns, separator: str = ",") -> str:
    """The text of a CSV file."""
    rows = zip(*columns.values(), strict=True)
    return "\n".join([separator.join(columns), *(separator.join(map(str, row)) for row in rows), ""])


@pytest.fixture
def cart(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes drives of some lengths as `drive_0.csv` and so on, and returns their folder."""

    def write(*rows: int) -> Path:
        for index, length in enumerate(rows or (60, 60, 60, 60)):
            (tmp_path / f"drive_{index}.csv").write_text(as_csv(drive(index, length)))
        return tmp_path

    return write


def described(**changes: object) -> LogDescription:
    """The description of the cart, with changes."""
    said: dict[str, object] = {
        "name": "cart",
        "files": "drive_*.csv",
        "time": "time",
        "horizon": 1,
        "inputs": [LogField(name="speed", columns=("left", "right"), unit="m/s")],
        "outputs": [LogField(name="yaw_rate", unit="rad/s")],
    }
    return LogDescription.model_validate(said | changes)
