"""`msr replay`: compares a recording with a bundle. It needs no torch."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro

from msr_runtime.adaptation.backend import Engine
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.cli.output import BundlePath, TrustedKeys, option, print_rows
from msr_runtime.recording.reader import Recording
from msr_runtime.recording.replay import FieldDifference
from msr_runtime.recording.replay import replay as compare

RecordingPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECORDING.mcap")]


def replay(
    recording: RecordingPath,
    bundle: BundlePath,
    /,
    tolerance: Annotated[float | None, option("FRACTION", "the tolerance of the export, in the manifest")] = None,
    time_constant: Annotated[float | None, option("SECONDS", "the bundle's own")] = None,
    key: TrustedKeys = (),
    engine: Engine = "onnx",
) -> int:
    """Compare the actions in a recording with the actions of a bundle.

    The bundle gets the recorded observations and adaptations in their order.

    Exit code: 0 if all actions and adaptations are equal within the tolerance, 1 if not.

    Args:
        recording: A file of Recorder.
        bundle: The folder of the recorded bundle, or of another bundle with the same fields.
        tolerance: Largest difference that counts as equal, as a fraction of the output's scale in the manifest.
        time_constant: The time constant that the recorded model was loaded with, if it was given one. A recording does
            not hold it. Only for the rule recursive.
        key: Public keys (Ed25519). The bundle must be signed by one of them.
        engine: What computes: ONNX Runtime, or the bundle's native code (`msr compile`), a program to trust.
    """
    opened = Recording.open(recording)
    model = AdaptiveModel.load(bundle, trusted_keys=key or None, time_constant=time_constant, engine=engine)
    found = compare(opened, model, tolerance)
    cut = "" if opened.finished() else ", cut short: the robot's program was killed, or the disk was full"
    digest = opened.policy.bundle
    alone = f"; {found.alone} not compared, because they have no finite observation" if found.alone else ""
    rows: dict[str, object] = {
        "recording": f"{recording} ({opened.policy.manifest.name}{cut})",
        "bundle": f"{bundle} ({'as recorded' if found.same_bundle else f'not the recorded one, {digest}'})",
        "actions": f"{found.actions} compared, {found.differing} differ{alone}",
        **{f"output {field.name}": _describe(field) for field in found.fields},
        "adaptations": f"{found.adaptations} replayed, {found.adaptations_differing} differ, {found.refused} not "
        "replayed, because they were refused when they were recorded",
    }
    if found.adaptations and found.same_bundle:
        rows["adapted v"] = f"largest relative error {found.v_error:.2e}"
    if dropped := opened.dropped():
        rows["dropped"] = ", ".join(f"{count} of /{topic}" for topic, count in dropped.items()) + " while recording"
    if found.first is not None:
        rows["first"] = _stamp(found.first)
    print_rows(rows | {"verdict": "same" if found.same else "different"})
    return 0 if found.same else 1


def _describe(field: FieldDifference) -> str:
    first = f", first {_stamp(field.first)}" if field.first is not None else ""
    return f"largest difference {field.largest:.3g} {field.unit}, {field.differing} actions beyond the tolerance{first}"


def _stamp(stamp: int) -> str:
    return f"{stamp} ({datetime.fromtimestamp(stamp / 1e9, UTC):%Y-%m-%d %H:%M:%S.%f} UTC)"
