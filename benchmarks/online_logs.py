"""Streams from the logs of a real robot: drives in their order, and drives that turn one way and then the other.

The robot has two driven sides. The network says how fast it will turn one row later, from how it turns now and what its
wheels and motors do. The folder holds one CSV file a drive, named `TERRAIN_NUMBER.csv`, with the columns of `describe`.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from online_streams import Streams

from msr_envs.logs import LogDescription, LogField, LogSplit, Mirror, log_family
from msr_envs.logs.drives import read_files
from msr_envs.logs.samples import take_samples
from msr_runtime.representation import Parts, Pseudoscalar
from msr_runtime.task import Array, Split

TERRAINS = ("asphalt", "flooring", "snow")
LOG_KINDS = ("in order", "switches")
TURNING = 0.05
"""From so many rad/s on, the robot turns."""
SHORTEST = 100
"""Samples of the shortest drive: support sets of 64 samples leave some of them for the queries."""
BLOCK = 64
"""Samples before a switch, and after it."""
STRETCH = 200
"""Samples of a stream in order."""
BLOCKS = 4
"""Most switches of one kind that are taken from one drive, so that long drives do not count alone."""


def describe(folder: Path, terrain: str, *, mirror: bool) -> LogDescription:
    """Describe the logs, with one terrain left for the tests.

    Args:
        folder: Of the CSV files.
        terrain: The terrain that is left out of training and validation.
        mirror: State that the robot has a mirror.

    """
    sides = {name: Parts(cycles={"mirror": [[f"{name}_left", f"{name}_right"]]}) for name in ("current", "speed")}
    columns = {name: [f"{name}_left", f"{name}_right"] for name in sides}
    kept = {name: representation if mirror else None for name, representation in sides.items()}
    turning = {"columns": ["yaw_rate"], "unit": "rad/s", "representation": Pseudoscalar() if mirror else None}
    return LogDescription(
        name=f"husky-{terrain}{'' if mirror else '-unsymmetric'}",
        files=str(folder / "*.csv"),
        time="time",
        shortest=SHORTEST,
        symmetry=(Mirror(),) if mirror else (),
        inputs=[
            LogField(name="current", columns=columns["current"], unit="A", representation=kept["current"]),
            LogField(name="speed", columns=columns["speed"], unit="m/s", lags=[0, 1], representation=kept["speed"]),
            LogField(name="yaw_rate", **turning),
        ],
        outputs=[LogField(name="next_yaw_rate", **turning)],
        horizon=1,
        split=LogSplit(validation=0.2, test=f"{terrain}_*"),
    )


@cache
def log_streams(folder: Path, terrain: str, kind: str, split: Split) -> Streams:
    """Cut streams out of the drives of one split. They have no queries: nobody logged what another way would give.

    Args:
        folder: Of the CSV files.
        terrain: The terrain that is left for the split `test`.
        kind: One of `LOG_KINDS`.
        split: The split.

    """
    drives = list(_drives(folder, terrain, split))
    cut = _in_order if kind == "in order" else _switches
    parts = [part for x, y in drives for part in cut(x, y)]
    if not parts:
        raise SystemExit(f"error: no {split} drive in '{folder}' is long enough for streams of the kind '{kind}'")
    x, y = (np.stack(side) for side in zip(*parts, strict=True))
    return Streams(x, y, x[:, :, None][:, :, :0], y[:, :, None][:, :, :0], float(y.var()), np.ones(1))


def _drives(folder: Path, terrain: str, split: Split) -> Iterator[tuple[Array, Array]]:
    said = describe(folder, terrain, mirror=True)
    names = log_family(said, ".").split_names(split)
    for file in read_files(said, Path()):
        for drive in file.drives:
            if drive.task in names:
                samples = take_samples(said, drive)
                yield samples.x, samples.y


def _in_order(x: Array, y: Array) -> Iterator[tuple[Array, Array]]:
    for first in range(0, len(x) - STRETCH + 1, STRETCH):
        yield x[first : first + STRETCH], y[first : first + STRETCH]


def _switches(x: Array, y: Array) -> Iterator[tuple[Array, Array]]:
    """One way for a block, then the other way for a block; rows in which the robot hardly turns are left out."""
    left, right = np.flatnonzero(y[:, 0] > TURNING), np.flatnonzero(y[:, 0] < -TURNING)
    for block in range(min(BLOCKS, len(left) // BLOCK, len(right) // BLOCK)):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        for rows in (np.concatenate([left[part], right[part]]), np.concatenate([right[part], left[part]])):
            yield x[rows], y[rows]
