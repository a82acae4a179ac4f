"""A task family from a robot's logs, described in a small YAML file.

A log is a set of files in one of these formats: CSV, TSV, Parquet, `.npz` with one array per column, the recordings of
`msr_runtime.Recorder` (MCAP), and LeRobot's data sets. Each file is one drive, or a column names the drive. Drives may
have any length. `msr train logs.yaml RUN` trains on a log.

The extra `data` brings what reads YAML, CSV and Parquet: `pip install "msr-runtime[data]"`.

Example:
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from msr_envs.logs import LogDescription, LogField, log_family
    >>> for drive, gain in enumerate([1.0, 2.0, 3.0]):
    ...     current = np.sin(np.arange(30.0))
    ...     np.savez(folder / f"drive_{drive}.npz", current=current, speed=gain * current)
    >>> description = LogDescription(
    ...     name="cart", files="drive_*.npz", horizon=1,
    ...     inputs=[LogField(name="current", unit="A")], outputs=[LogField(name="speed", unit="m/s")],
    ... )
    >>> family = log_family(description, folder)
    >>> family.sample(np.random.default_rng(0), tasks=1, shots=5, queries=10, split="train").query_y.shape
    (1, 10, 1)
    >>> print(*family.notes)
    3 drives with 87 samples
"""

from msr_envs.logs.description import LogDescription, LogField, LogSplit, Mirror, Turns, Yaw, read_description
from msr_envs.logs.family import LogFamily, SymmetricLogFamily, log_family

__all__ = [
    "LogDescription",
    "LogFamily",
    "LogField",
    "LogSplit",
    "Mirror",
    "SymmetricLogFamily",
    "Turns",
    "Yaw",
    "log_family",
    "read_description",
]
