"""`msr score`: predicts a log sample by sample, adapting to it as it goes. It needs no torch."""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from msr_runtime.adaptation.backend import Engine
from msr_runtime.adaptation.comparison import METHODS
from msr_runtime.adaptation.input_faults import element_names
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.online import OnlineAdapter
from msr_runtime.adaptation.prequential import STRETCHES, Score
from msr_runtime.adaptation.prequential import score as measure
from msr_runtime.cli.drives import read_drives
from msr_runtime.cli.output import BundlePath, JsonPath, TrustedKeys, option, print_rows, require_folder, write_json
from msr_runtime.inference.input_bounds import listed
from msr_runtime.task import Split

_WORDS = {"adapted": "adapting", "v0": "no adaptation", "mean": "running mean", "last": "last value"}


def score(
    log: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LOG")],
    bundle: BundlePath,
    /,
    split: Annotated[Split | None, option("SPLIT", "all tasks")] = None,
    window: Annotated[int, tyro.conf.arg(metavar="N")] = 64,
    hz: Annotated[float, tyro.conf.arg(metavar="HZ")] = 10.0,
    time_constant: Annotated[float | None, option("SECONDS", "the bundle's own")] = None,
    json: JsonPath = None,
    key: TrustedKeys = (),
    engine: Engine = "onnx",
) -> int:
    """Say how well a bundle predicts a log of a robot while it adapts to it, and whether adapting helps.

    Each sample is predicted before anything is learned from it. At the start of each drive, v0 acts.

    An error is over the variance of y in the log: 1 is the error of always giving the mean.

    Args:
        log: A description of logs (.yaml: CSV, Parquet, .npz, MCAP, LeRobot), a recording of Recorder (.mcap), or an
            .npz file with x (samples, inputs), y (samples, outputs) and optionally time (samples,) in s. Several drives
            of equal length have one more axis in front.
        bundle: The folder of the bundle.
        split: Score only the tasks of train, validation or test. Only for a description of logs.
        window: Size of the support set, as in OnlineAdapter.
        hz: Adaptations per second of the log, at most, as in OnlineAdapter.
        time_constant: The time after which 1/e of what was learned is left. Give it if the robot loads the bundle with
            a time constant of its own. Only for the rule recursive.
        json: Write the figures to this file too.
        key: Public keys (Ed25519). The bundle must be signed by one of them.
        engine: What computes: ONNX Runtime, or the bundle's native code (`msr compile`), a program to trust.
    """
    require_folder(json)
    model = AdaptiveModel.load(bundle, trusted_keys=key or None, time_constant=time_constant, engine=engine)
    drives = read_drives(log, model, split)
    found = measure(model, drives, partial(OnlineAdapter, window=window, hz=hz))
    print_rows(_rows(log, bundle, model, found))
    if json:
        write_json(json, {name: _plain(value) for name, value in dataclasses.asdict(found).items()})
    return 0


def _rows(log: Path, bundle: Path, model: AdaptiveModel, found: Score) -> dict[str, object]:
    labels = model.manifest.loss == "cross_entropy"
    left_out = f", {found.left_out} left out: not finite, or absurd" if found.left_out else ""
    rows: dict[str, object] = {
        "log": f"{log} ({found.samples} samples in {found.drives} drives{left_out})",
        "bundle": f"{bundle} ({model.manifest.name}, {model.manifest.method})",
        "errors": "the share of wrong labels" if labels else "mean squared error over the variance of y",
        "  samples of a drive": _columns(["all", *(_stretch(first, last) for first, last in STRETCHES)]),
    }
    for name in METHODS:
        figures = [found.errors[name], *found.by_stretch[name]]
        rows[f"  {_WORDS[name]}"] = _columns(["-" if math.isnan(each) else f"{each:.3g}" for each in figures])
    if not labels and len(found.by_output["adapted"]) > 1:
        for index, name in enumerate(element_names(model.manifest.outputs)):
            each = ", ".join(f"{_WORDS[method]} {found.by_output[method][index]:.3g}" for method in METHODS)
            rows[f"  output {name}"] = each
    refused = f", refused: {listed(found.refused)}" if found.refused else ""
    restarts = f", changes of the task noticed: {found.restarts}" if found.restarts else ""
    rows["updates"] = f"{found.tried} tried{refused}{restarts}"
    ratio = found.errors["adapted"] / found.errors["v0"] if found.errors["v0"] else math.nan
    rows["adapting"] = (
        f"has {ratio:.3g} times the error of no adaptation"
        if math.isfinite(ratio)
        else "cannot be compared with no adaptation: y never changes in this log, or is always predicted exactly"
    )
    return rows


def _stretch(first: int, last: int | None) -> str:
    return f"{first + 1} to {last}" if last else f"after {first}"


def _columns(cells: list[str]) -> str:
    return "".join(f"{cell:<12}" for cell in cells).rstrip()


def _plain(value: object) -> object:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
