"""Read a log as drives to score: a description of logs, a recording, or an .npz file of samples."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.prequential import Drive
from msr_runtime.cli.npz import read_npz
from msr_runtime.errors import InputError
from msr_runtime.task import Field, Split

ENDINGS = (".yaml", ".yml", ".mcap", ".npz")
"""The endings of the files that can be scored."""


def read_drives(path: Path, model: AdaptiveModel, split: Split | None) -> list[Drive]:
    """Read a log.

    Args:
        path: A file with one of the `ENDINGS`.
        model: The model that is to predict it.
        split: Of a description of logs, the tasks to read; None reads all.

    Raises:
        InputError: If the file is missing, of another kind or damaged, or of another robot.
        FamilyError: If a description of logs, or one of its files, is wrong.
    """
    kind = path.suffix.lower()
    if kind not in ENDINGS:
        raise InputError(
            f"log '{path}' ends in '{path.suffix}', but {', '.join(ENDINGS)} can be scored; a .csv file needs a "
            "description of logs (.yaml), which says what its columns are"
        )
    if not path.is_file():
        raise InputError(f"there is no file '{path}'; correct the path")
    if split is not None and kind not in ENDINGS[:2]:
        raise InputError(f"--split {split} is given, but only a description of logs has splits; leave it out")
    if kind == ".npz":
        return _from_arrays(path, model)
    return _from_recording(path, model) if kind == ".mcap" else _from_logs(path, model, split)


def _from_logs(path: Path, model: AdaptiveModel, split: Split | None) -> list[Drive]:
    # here, because a robot may lack the packages that read logs
    from msr_envs.logs.description import read_description
    from msr_envs.logs.streams import read_streams

    manifest = model.manifest
    streams = read_streams(read_description(path), path.parent, split, manifest.rate_hz or 1.0)
    _check_fields(path, (streams.inputs, streams.outputs), model)
    return [Drive(*stream) for stream in streams.drives]


def _from_recording(path: Path, model: AdaptiveModel) -> list[Drive]:
    # here, because a robot may lack the package mcap
    from msr_runtime.recording.messages import ADAPTATION, SAMPLE
    from msr_runtime.recording.reader import Recording

    recording = Recording.open(path)
    recorded = recording.policy.manifest
    _check_fields(path, (recorded.inputs, recorded.outputs), model)
    tasks: list[list[tuple[int, NDArray, NDArray]]] = [[]]
    for event in recording.events(SAMPLE, ADAPTATION):
        if event.topic == SAMPLE:
            tasks[-1].append((event.stamp, *recording.pair(event)))
        elif recording.adaptation(event).kind in ("reset", "load"):  # another task begins
            tasks.append([])
    drives = []
    for number, task in enumerate(filter(None, tasks)):
        task.sort(key=lambda each: each[0])  # several threads may have recorded
        stamps, x, y = (np.stack(each) for each in zip(*task, strict=True))
        seen = (stamps - stamps[0]) / 1e9
        shapes = (spec.shape for spec in model.sample_specs)
        x, y = (each.reshape(-1, *shape) for each, shape in zip((x, y), shapes, strict=True))
        drives.append(Drive(f"task {number}", x, y, seen, seen))
    if not drives:
        raise InputError(
            f"recording '{path}' holds no samples; the robot's program has to call Recorder.sample(x, y), or give the "
            "recorder to OnlineAdapter"
        )
    return drives


def _from_arrays(path: Path, model: AdaptiveModel) -> list[Drive]:
    found = read_npz(path)
    if absent := [name for name in ("x", "y") if name not in found]:
        raise InputError(
            f"log '{path}' holds {sorted(found)} but not '{absent[0]}'; x (samples, *x) and y (samples, *y) are "
            "wanted, or both with one more axis in front, which counts drives"
        )
    x, y = found["x"], found["y"]
    if x.ndim == len(model.sample_specs[0].shape) + 1:
        x, y = x[None], y[None]
    if len(x) != len(y) or x.ndim < 2:
        raise InputError(f"log '{path}': x has the shape {found['x'].shape} and y {found['y'].shape}; they do not pair")
    time = found["time"] if "time" in found else np.arange(x.shape[1]) / (model.manifest.rate_hz or 1.0)
    if time.shape not in (x.shape[:2], x.shape[1:2]):
        raise InputError(f"log '{path}': time has the shape {time.shape}, but one number per sample is wanted")
    times = np.broadcast_to(time, x.shape[:2])
    return [Drive(f"drive {number}", *each, each[2]) for number, each in enumerate(zip(x, y, times, strict=True))]


def _check_fields(path: Path, fields: tuple[tuple[Field, ...], tuple[Field, ...]], model: AdaptiveModel) -> None:
    manifest = model.manifest
    for side, seen, wanted in zip(("inputs", "outputs"), fields, (manifest.inputs, manifest.outputs), strict=True):
        # Not their bounds: those of a log are often the extremes of its own data.
        said, asked = (", ".join(f"{f.name} {f.shape} {f.unit}" for f in each) for each in (seen, wanted))
        if said != asked:
            raise InputError(
                f"log '{path}' has the {side} {said}, but the bundle has {asked}; it is of another robot, or describes "
                "its columns in another way than the log of training"
            )
