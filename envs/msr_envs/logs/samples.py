"""From the rows of a drive to its samples: the fields of x and y at each moment that has all its rows."""

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.logs.columns import derive
from msr_envs.logs.description import LogDescription, LogField
from msr_envs.logs.drives import Drive
from msr_envs.logs.table import Floats, fail
from msr_runtime.task import Array

_DROPOUT = 2.0
"""A step of the time is a dropout if it is longer than so many usual ones, unless the description says how long."""
_SLOWEST = 1000.0
"""The longest usual step in s that is believed to be in s."""


class Moment(NamedTuple):
    """One field of x or y as the network gets it."""

    name: str
    field: LogField
    source: int
    """The number of the field in the description, x and then y."""
    ahead: int
    """How many rows after the present its values stand."""
    before: int
    """How many rows after the present the values stand that a difference takes away."""

    @property
    def reach(self) -> tuple[int, int]:
        """The first and the last row that it needs, from the present one."""
        return (
            (min(self.ahead, self.before), max(self.ahead, self.before))
            if self.field.difference
            else (self.ahead, self.ahead)
        )


def moments(said: LogDescription) -> tuple[list[Moment], list[Moment]]:
    """Return the fields of x, one per lag, and the fields of y."""
    inputs = [
        Moment(field.name if not lag else f"{field.name}_lag{lag}", field, i, -lag, -lag - 1)
        for i, field in enumerate(said.inputs)
        for lag in field.lags
    ]
    outputs = [Moment(field.name, field, len(said.inputs) + i, said.horizon, 0) for i, field in enumerate(said.outputs)]
    return inputs, outputs


class Samples(NamedTuple):
    """The samples of one drive, in the order of time, and what was left out."""

    drive: Drive
    x: Array
    """`(samples, x)`."""
    y: Array
    """`(samples, y)`."""
    rows: int
    """Rows of the drive."""
    broken: int
    """Moments that are left out because a value is not finite."""
    across: int
    """Moments that are left out because a dropout lies between their rows."""
    dropouts: int
    """Steps of the time that are too long, or do not go forward."""
    back: int
    """Steps of the time that do not go forward."""
    fields: Counter[str]
    """In how many rows each field has a value that is not finite."""
    step: float | None
    """The usual step of the time in s."""
    present: NDArray[np.int64]
    """The row of the drive at which each sample stands: that of its x without lags, `(samples,)`."""


def take_samples(said: LogDescription, drive: Drive) -> Samples:
    """Compute every sample of a drive.

    Raises:
        FamilyError: The time does not move on, or is not in s.
    """
    inputs, outputs = moments(said)
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is missing
        x, y = (
            np.concatenate([_derived(drive, moment) for moment in side], 1).astype(np.float32)
            for side in (inputs, outputs)
        )
    rows, reaches = len(x), [moment.reach for moment in (*inputs, *outputs)]
    first, last = min(0, *(reach[0] for reach in reaches)), max(0, *(reach[1] for reach in reaches))
    step = _usual_step(drive)
    dropout = _dropouts(said, drive, step, rows)
    there = np.arange(-first, rows - last)  # moments all of whose rows exist
    finite = np.isfinite(np.concatenate([x, y], 1)[there]).all(1)
    stretch = dropout.cumsum()
    whole = stretch[there + last] == stretch[there + first] if len(there) else np.zeros(0, bool)
    kept = there[finite & whole]
    fields = Counter(
        {
            field.name: int(count)
            for field, value in zip((*said.inputs, *said.outputs), drive.values, strict=True)
            if (count := (~np.isfinite(value)).any(1).sum())
        }
    )
    return Samples(
        drive,
        x[kept],
        y[kept],
        rows,
        int((~finite).sum()),
        int((finite & ~whole).sum()),
        int(dropout.sum()),
        0 if drive.time is None else int((np.diff(drive.time) <= 0).sum()),
        fields,
        step,
        kept,
    )


def _derived(drive: Drive, moment: Moment) -> Floats:
    values, yaw = drive.values[moment.source], drive.yaws[moment.source]
    return derive(moment.field, values, ahead=moment.ahead, before=moment.before, yaw=yaw)


def _usual_step(drive: Drive) -> float | None:
    if drive.time is None or len(drive.time) < 2:
        return None
    step = float(np.nanmedian(np.diff(drive.time))) if np.isfinite(drive.time).any() else np.nan
    if not step > 0:
        fail(
            drive.path,
            f"the time of drive '{drive.name}' moves by {step:g} s in its usual step, but it must grow; the likely "
            "cause is rows that are not in the order of time (sort them), another column, or rows of several drives in "
            "one file: name the column that tells them apart (drive)",
        )
    if step > _SLOWEST:
        fail(
            drive.path,
            f"the time of drive '{drive.name}' moves by {step:g} in its usual step, which is no second; the likely "
            "cause is a time in ms or ns: write a column in s, or leave out time",
        )
    return step


def _dropouts(said: LogDescription, drive: Drive, step: float | None, rows: int) -> NDArray[np.bool_]:
    """Return for each row whether the step to it is a dropout, `(rows,)`."""
    if drive.time is None or step is None:
        return np.zeros(rows, bool)
    longest = said.largest_step or _DROPOUT * step
    steps = np.diff(drive.time)
    return np.concatenate([[False], ~((steps > 0) & (steps <= longest))])
