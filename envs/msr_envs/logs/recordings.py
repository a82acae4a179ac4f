"""Read the recordings of `msr_runtime.Recorder` as tables."""

from pathlib import Path

import numpy as np

from msr_envs.logs.table import Arrays, fail
from msr_runtime.errors import FamilyError, InputError


def read_recording(path: Path) -> Arrays:
    """Read the samples of a recording: columns `time` in s, `task`, and `x.FIELD` and `y.FIELD` for each field.

    `task` counts the tasks of the recording: a reset, or the loading of another adaptation, begins a new one.

    Raises:
        FamilyError: It is no recording, holds no sample, or the package mcap is missing.
    """
    try:
        # here, because simulators need none of it, and mcap may be missing
        from msr_runtime.recording.messages import ADAPTATION, SAMPLE
        from msr_runtime.recording.reader import Recording
    except ImportError as error:
        raise FamilyError(f"log '{path}': {error}") from error
    task, rows = 0, []
    try:
        recording = Recording.open(path)
        for event in recording.events(SAMPLE, ADAPTATION):
            if event.topic == SAMPLE:
                rows.append((event.stamp, task, *recording.pair(event)))
            elif recording.adaptation(event).kind in ("reset", "load"):
                task += 1
    except InputError as error:
        raise FamilyError(str(error)) from error
    if not rows:
        fail(path, "it holds no samples; the robot's program has to call Recorder.sample(x, y)")
    stamps, tasks, x, y = (np.array(each) for each in zip(*rows, strict=True))
    columns = {"time": (stamps - stamps[0]) / 1e9, "task": tasks}
    manifest = recording.policy.manifest
    outputs = manifest.outputs if manifest.loss != "cross_entropy" else ()
    for side, fields, values in (("x", manifest.inputs, x), ("y", outputs, y)):
        start = 0
        for field in fields:
            columns[f"{side}.{field.name}"] = values[:, start : start + field.size]
            start += field.size
    return Arrays(path, columns)
