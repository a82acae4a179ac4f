"""`msr dataset`: makes training data from recordings. It needs no torch."""

import io
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from msr_runtime.cli.output import option, print_rows, require_folder
from msr_runtime.errors import InputError
from msr_runtime.files import write_atomically
from msr_runtime.recording.messages import ADAPTATION, SAMPLE
from msr_runtime.recording.reader import Recording
from msr_runtime.task import Field, fields_agree, sample_shape

RecordingPaths = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="RECORDING.mcap ...", help_behavior_hint="(at least one)"),
]


def dataset(
    recordings: RecordingPaths,
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.npz")],
    examples: Annotated[int | None, option("N", "as many as the shortest task has")] = None,
) -> int:
    """Make training data from recordings: an .npz file that `msr train` takes as a task family.

    The examples are the samples (x, y) that the robot recorded and learned from.

    A recording is one task. A reset, or the loading of another adaptation, begins a new task.

    All tasks have the same number of examples, evenly spread over the time of the task.

    Args:
        recordings: Files of Recorder, from robots with the same fields.
        out: The .npz file to write.
        examples: Number of examples per task. Tasks with fewer examples are left out.
    """
    if not recordings:
        raise InputError("no recording is given, but at least one is wanted; give the .mcap files of Recorder")
    if examples is not None and examples < 1:
        raise InputError(f"--examples is {examples}, but at least 1 is wanted")
    require_folder(out)
    opened = [Recording.open(path) for path in recordings]
    first = opened[0].policy.manifest
    for other in opened[1:]:
        if not _agree(opened[0], other):
            raise InputError(
                f"recordings '{opened[0].path}' and '{other.path}' differ in their fields, loss or rate, but all "
                "recordings have to come from one task family; make one file per family"
            )
    tasks, left_out = [], 0
    for recording in opened:
        found, broken = _tasks(recording)
        left_out += broken
        tasks += found
    if not tasks:
        raise InputError(
            f"the recordings hold no finite message of {SAMPLE}, so there are no examples; the robot's program has to "
            "call Recorder.sample(x, y), or give the recorder to OnlineAdapter"
        )
    count = min(map(len, tasks)) if examples is None else examples
    kept = [_spread(task, count) for task in tasks if len(task) >= count]
    if not kept:
        raise InputError(f"no task has {count} examples, the longest has {max(map(len, tasks))}; lower --examples")
    labels = first.loss == "cross_entropy"
    arrays = {
        "x": _stack(kept, 0, sample_shape(first.inputs)),
        "y": _stack(kept, 1, () if labels else sample_shape(first.outputs)),
        **_fields("x", first.inputs),
        **_fields("y", first.outputs),
    }
    if first.rate_hz is not None:
        arrays["rate_hz"] = np.array(first.rate_hz)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(out, buffer.getvalue())
    few = "; training needs at least 3 tasks, one each for training, validation and test" if len(kept) < 3 else ""
    print_rows(
        {
            "dataset": out,
            "tasks": f"{len(kept)} from {len(opened)} recordings, {len(tasks) - len(kept)} too short{few}",
            "examples": f"{count} per task, of {sum(map(len, tasks))} finite samples in all; {left_out} are not finite",
        }
    )
    return 0


def _agree(one: Recording, another: Recording) -> bool:
    first, other = one.policy.manifest, another.policy.manifest
    fields = fields_agree(first.inputs, other.inputs) and fields_agree(first.outputs, other.outputs)
    return fields and (first.loss, first.rate_hz) == (other.loss, other.rate_hz)


def _tasks(recording: Recording) -> tuple[list[list[tuple[NDArray, NDArray]]], int]:
    """Read the samples per task, without empty tasks, and count the samples that are left out as not finite."""
    tasks: list[list[tuple[NDArray, NDArray]]] = [[]]
    broken = 0
    for event in recording.events(SAMPLE, ADAPTATION):
        if event.topic == ADAPTATION:
            if recording.adaptation(event).kind in ("reset", "load"):  # another task begins
                tasks.append([])
            continue
        x, y = recording.pair(event)
        if np.isfinite(x).all() and np.isfinite(y).all():
            tasks[-1].append((x, y))
        else:
            broken += 1
    return [task for task in tasks if task], broken


def _spread(task: list[tuple[NDArray, NDArray]], count: int) -> list[tuple[NDArray, NDArray]]:
    """Choose `count` samples of a task, evenly spread, with the first and the last."""
    return [task[index] for index in np.linspace(0, len(task) - 1, count).round().astype(int)]


def _stack(tasks: list[list[tuple[NDArray, NDArray]]], side: int, shape: tuple[int, ...]) -> NDArray:
    """Stack x (`side` 0) or y (`side` 1) of all samples: `(tasks, examples, *shape)`."""
    array = np.stack([[sample[side] for sample in task] for task in tasks])
    return array.reshape(*array.shape[:2], *shape)


def _fields(side: str, fields: tuple[Field, ...]) -> dict[str, Any]:
    return {
        f"{side}_names": [field.name for field in fields],
        f"{side}_sizes": [field.size for field in fields],
        f"{side}_units": [field.unit for field in fields],
        f"{side}_low": [field.low for field in fields],
        f"{side}_high": [field.high for field in fields],
        f"{side}_kinds": [field.kind for field in fields],
        f"{side}_wraps": [field.wraps or 0.0 for field in fields],
        f"{side}_representations": [
            kind.model_dump_json() if (kind := field.representation) else "" for field in fields
        ],
        f"{side}_elements": [name for field in fields for name in field.names or [""] * field.size],
    }
