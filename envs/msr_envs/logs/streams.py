"""The drives of a log as streams of samples in time: what a robot observed, and when it knew the y."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.logs.description import LogDescription
from msr_envs.logs.drives import read_files
from msr_envs.logs.fields import make_fields
from msr_envs.logs.samples import Samples, moments, take_samples
from msr_envs.logs.splits import divide
from msr_runtime.errors import FamilyError
from msr_runtime.task import Array, Field, Split


class Stream(NamedTuple):
    """The samples of one drive, in the order of time."""

    name: str
    x: Array
    """`(samples, x)`, in raw units."""
    y: Array
    """`(samples, y)`, in raw units."""
    seen: NDArray[np.float64]
    """When each x was observed, in s from the start of the drive, `(samples,)`."""
    known: NDArray[np.float64]
    """When its y was known: at the row of the horizon, `(samples,)`."""


class Streams(NamedTuple):
    """The drives of a log."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    drives: list[Stream]


def read_streams(said: LogDescription, folder: Path, split: Split | None = None, rate_hz: float = 1.0) -> Streams:
    """Read the drives of a log that have enough samples.

    Args:
        said: The description.
        folder: Where its paths begin.
        split: The tasks to read; None reads all.
        rate_hz: The rate of the rows, where neither the description nor a file says anything of time.

    Raises:
        FamilyError: As `LogFamily`. Without a split, one drive is enough.
    """
    files = list(read_files(said, folder))
    rates = [said.rate_hz or file.rate_hz or rate_hz for file in files for _ in file.drives]
    read = [take_samples(said, drive) for file in files for drive in file.drives]
    kept = [(samples, rate) for samples, rate in zip(read, rates, strict=True) if len(samples.x) >= said.shortest]
    if not kept:
        raise FamilyError(
            f"log '{said.name}': no drive has {said.shortest} samples; lower `shortest`, `horizon` or `lags`, or look "
            "at what `msr train` says of its files"
        )
    inputs, outputs = moments(said)
    elements = files[0].elements
    fields = (
        make_fields(said, inputs, elements, [samples.x for samples, _ in kept]),
        make_fields(said, outputs, elements, [samples.y for samples, _ in kept]),
    )
    if split is not None:
        names = tuple(dict.fromkeys(samples.drive.task for samples, _ in kept))
        chosen = {names[task] for task in divide(said.name, names, said.split)[split]}
        kept = [(samples, rate) for samples, rate in kept if samples.drive.task in chosen]
    return Streams(*fields, [_stream(said, samples, rate) for samples, rate in kept])


def _stream(said: LogDescription, samples: Samples, rate: float) -> Stream:
    time, rows = samples.drive.time, samples.present
    # No dropout lies between the rows of a sample, so their times are finite and grow.
    at = np.arange(samples.rows) / rate if time is None else time - time[rows[0]]
    return Stream(samples.drive.name, samples.x, samples.y, at[rows], at[rows + said.horizon])
