"""`msr replay` and `msr dataset`: what a recording is good for after the run; without torch."""

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from msr_runtime.commands.output import BundlePath, TrustedKeys, print_rows
from msr_runtime.errors import InputError
from msr_runtime.files import write_atomically
from msr_runtime.messages import ADAPTATION, SAMPLE
from msr_runtime.model import AdaptiveModel
from msr_runtime.recording import Recording
from msr_runtime.replay import FieldDifference
from msr_runtime.replay import replay as compare
from msr_runtime.task import Field, sample_shape

RecordingPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECORDING.mcap")]
RecordingPaths = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RECORDING.mcap...")]


def replay(
    recording: RecordingPath, bundle: BundlePath, /, tolerance: float | None = None, key: TrustedKeys = ()
) -> int:
    """Run a recording against a bundle and say where they differ; exits with 1 if they do.

    Args:
        recording: What a Recorder wrote.
        bundle: The bundle's folder: the one that was recorded, or another with the same fields.
        tolerance: The largest difference that counts as the same, as a share of each output's scale in the manifest;
            by default what the bundle was exported under.
        key: PEM files with Ed25519 public keys; one of them has to have signed the bundle.
    """
    opened, model = Recording.open(recording), AdaptiveModel.load(bundle, trusted_keys=key or None)
    found = compare(opened, model, tolerance)
    cut = "" if opened.finished() else ", cut short: its writer was killed, or its disk was full"
    digest = opened.policy.bundle
    alone = f"; {found.alone} have no finite observation, and were left out" if found.alone else ""
    rows: dict[str, object] = {
        "recording": f"{recording} ({opened.policy.manifest.name}{cut})",
        "bundle": f"{bundle} ({'as recorded' if found.same_bundle else f'another than the recorded {digest}'})",
        "actions": f"{found.actions} compared, {found.differing} differ{alone}",
        **{f"output {field.name}": _describe(field) for field in found.fields},
        "adaptations": f"{found.adaptations} replayed, {found.adaptations_differing} differ, {found.refused} were "
        "refused then",
    }
    if found.adaptations and found.same_bundle:
        rows["adapted v"] = f"largest relative error {found.v_error:.2e}"
    if dropped := opened.dropped():
        rows["dropped"] = ", ".join(f"{count} of /{topic}" for topic, count in dropped.items()) + " while recording"
    if found.first is not None:
        rows["first"] = _stamp(found.first)
    print_rows(rows | {"verdict": "same" if found.same else "different"})
    return 0 if found.same else 1


def dataset(recordings: RecordingPaths, /, out: Path, examples: int | None = None) -> int:
    """Make training data of recordings: an .npz file that `msr train` takes as a family.

    x and y are the samples that the robot learned from. A recording is one task; where the model was reset, or loaded
    another adaptation, a new task begins. Tasks of one file have the same number of examples: longer ones give that
    many, evenly spread over their time.

    Args:
        recordings: What Recorders wrote, of robots with the same fields.
        out: The .npz file.
        examples: Examples of each task; shorter tasks are left out. By default as many as the shortest task has.
    """
    if not recordings:
        raise InputError("no recording is named; name at least one")
    if examples is not None and examples < 1:
        raise InputError(f"--examples is {examples}, but at least one is wanted")
    opened = [Recording.open(path) for path in recordings]
    first = opened[0].policy.manifest
    for other in opened[1:]:
        if _kind(other) != _kind(opened[0]):
            raise InputError(
                f"recordings '{opened[0].path}' and '{other.path}' have other fields, another loss or another rate: "
                "they are not of one family"
            )
    tasks, left_out = [], 0
    for recording in opened:
        found, broken = _tasks(recording)
        left_out += broken
        tasks += found
    if not tasks:
        raise InputError(
            f"the recordings hold no finite message of {SAMPLE}; Recorder.sample(x, y) writes what the robot learned"
        )
    count = min(map(len, tasks)) if examples is None else examples
    kept = [_spread(task, count) for task in tasks if len(task) >= count]
    if not kept:
        raise InputError(f"no task has {count} examples; the longest has {max(map(len, tasks))}")
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
    few = "; to train, three at least are wanted: one each for training, validation and test" if len(kept) < 3 else ""
    print_rows(
        {
            "dataset": out,
            "tasks": f"{len(kept)} from {len(opened)} recordings, {len(tasks) - len(kept)} too short{few}",
            "examples": f"{count} of each task; {sum(map(len, tasks))} finite samples in all, {left_out} not finite",
        }
    )
    return 0


def _kind(recording: Recording) -> tuple[object, ...]:
    manifest = recording.policy.manifest
    return manifest.inputs, manifest.outputs, manifest.loss, manifest.rate_hz


def _describe(field: FieldDifference) -> str:
    first = f", first {_stamp(field.first)}" if field.first is not None else ""
    return f"largest difference {field.largest:.3g} {field.unit}, beyond tolerance in {field.differing} actions{first}"


def _stamp(stamp: int) -> str:
    return f"{stamp} ({datetime.fromtimestamp(stamp / 1e9, UTC):%Y-%m-%d %H:%M:%S.%f} UTC)"


def _tasks(recording: Recording) -> tuple[list[list[tuple[NDArray, NDArray]]], int]:
    """The samples of each task that has some, and how many samples were left out because they are not finite."""
    tasks: list[list[tuple[NDArray, NDArray]]] = [[]]
    broken = 0
    for event in recording.events(SAMPLE, ADAPTATION):
        if event.topic == ADAPTATION:
            if recording.adaptation(event).kind != "adapt":
                tasks.append([])
            continue
        x, y = recording.pair(event)
        if np.isfinite(x).all() and np.isfinite(y).all():
            tasks[-1].append((x, y))
        else:
            broken += 1
    return [task for task in tasks if task], broken


def _spread(task: list[tuple[NDArray, NDArray]], count: int) -> list[tuple[NDArray, NDArray]]:
    """`count` of a task's samples, the first and the last among them, evenly spread."""
    return [task[index] for index in np.linspace(0, len(task) - 1, count).round().astype(int)]


def _stack(tasks: list[list[tuple[NDArray, NDArray]]], side: int, shape: tuple[int, ...]) -> NDArray:
    array = np.stack([[sample[side] for sample in task] for task in tasks])
    return array.reshape(*array.shape[:2], *shape)


def _fields(side: str, fields: tuple[Field, ...]) -> dict[str, Any]:
    return {
        f"{side}_names": [field.name for field in fields],
        f"{side}_sizes": [field.size for field in fields],
        f"{side}_units": [field.unit for field in fields],
        f"{side}_low": [field.low for field in fields],
        f"{side}_high": [field.high for field in fields],
    }
