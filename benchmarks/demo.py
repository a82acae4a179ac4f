"""The whole chain on ring-nav: meta-train every method, export it, adapt it on ONNX Runtime, drive and compare.

Every method is exported by the project's own exporter. What is scored, driven and timed in a row is that row's own
bundle, on ONNX Runtime. Writes runs/demo/: a folder per method, a bundle per method (MSR's is `bundle`), the pictures
and results.json.
"""

import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from picture_data import orbit_errors, paths, symmetry
from pictures import draw
from rich.console import Console
from store import EXPORT, RUNTIME, Output, begin, keep, settled
from tables import NEWTON
from tables import demo as demo_lines
from terminal import print_lines
from training import ROOTS, Job, Row, drive_reference, learner_config, measure, process_pool, score_run, train_all

from msr_envs.registry import load_family
from msr_envs.ring_nav.family import RingNav
from msr_export import export_checkpoint
from msr_runtime import AdaptiveModel
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.cli.bench import in_turns
from msr_runtime.errors import ExportError
from msr_runtime.meta.evaluation.predictor import torch_adapt
from msr_runtime.meta.training.checkpoint import load_checkpoint
from msr_runtime.meta.training.config import TrainSettings
from msr_runtime.task import Adapt, Array, Predict

FAMILY = "ring-nav"
METHODS: tuple[str, ...] = ("msr", "msr" + NEWTON, "cavia", "meta-sgd", "maml-big", "maml", "anil")
FIRST = "maml-big"
"""Trained first, because it takes longest: two cores then end together."""
WIDTH = 48
"""Of all networks but MAML (Big)'s, which has as many numbers as MSR's and takes most of the time."""


@dataclass(frozen=True)
class Options(Output):
    """What to run."""

    steps: int = 600
    """Outer steps of every method."""
    tasks: int = 100
    """Fresh tasks to score on."""
    drives: int = 60
    """Fresh tasks to drive in, six drives each."""
    out: Path = Path("runs/demo")
    """Folder of everything that is written; what it held before is replaced."""


STORED = {"demo": Options()}
"""The stored result, and what it measures."""
MEASURED = (*ROOTS, *EXPORT, *RUNTIME, "benchmarks/demo.py", "benchmarks/picture_data.py")


class Timed(Row):
    """A row of the demo, with the times of the same bundle; None for a method that the exporter refuses."""

    adapt_seconds: float | None
    predict_seconds: float | None


def main(options: Options) -> None:
    """Run the demo."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    begun = begin(options, MEASURED, seeds=(0,))
    say, started = Console().print, time.perf_counter()
    shutil.rmtree(options.out, ignore_errors=True)
    family = load_family(FAMILY)
    assert isinstance(family, RingNav)

    say(f"[bold]1/4[/] meta-training {len(METHODS)} methods on {FAMILY}, {options.steps} outer steps each")
    runs = {method: options.out / method.replace(", ", "-") for method in METHODS}
    settings = TrainSettings(steps=options.steps)
    jobs = [Job(run, FAMILY, method, learner_config(method, width=WIDTH), settings) for method, run in runs.items()]
    train_all(sorted(jobs, key=lambda job: job.method != FIRST))
    checkpoints = {method: load_checkpoint(run) for method, run in runs.items()}

    say("[bold]2/4[/] freezing U: exporting every method to ONNX and comparing it with torch")
    with process_pool() as pool:
        exported = list(pool.map(export, runs.values(), [options.out / _folder(method) for method in METHODS]))
    models: dict[str, AdaptiveModel] = {}
    for method, bundle in zip(METHODS, exported, strict=True):
        if isinstance(bundle, ExportError):  # it is scored in torch, and has no times
            say(f"      {method}: not exported: {bundle}")
            continue
        model = models[method] = AdaptiveModel.load(bundle)
        error = model.manifest.parity.max_relative_error
        say(f"      {method}: largest difference {error:.1e} (relative); bundle in {bundle}")
    adapts = {
        method: models[method].adapted if method in models else torch_adapt(each.learner, each.normalization)
        for method, each in checkpoints.items()
    }

    say("[bold]3/4[/] adapting to fresh tasks from ten samples that look one way, and driving every way")
    reference = drive_reference(FAMILY, options.drives)
    measured: dict[str, Row] = {}
    for method, checkpoint in checkpoints.items():
        adapt, unadapted = adapts[method], _unadapted(models[method]) if method in models else None
        scores = score_run(checkpoint, adapt, tasks=options.tasks)
        drives = {"closed_loop_tasks": options.drives, "reference": reference}
        row = measured[method] = measure(checkpoint, scores, adapt=adapt, unadapted=unadapted, **drives)
        say(f"      {method}: orbit error {row['error_orbit']:.4f}, goals {row['closed_loop_after']:.0%}")
    times = seconds_in_turns(models, family, settings.shots)
    rows = []
    for method, row in measured.items():
        adapt_seconds, predict_seconds = times.get(method, (None, None))
        if method in models:  # the export leaves out what no task needs
            row["adapted_parameters"] = models[method].manifest.filter_parameters
        rows.append(Timed(**row, adapt_seconds=adapt_seconds, predict_seconds=predict_seconds))

    say("[bold]4/4[/] drawing")
    rng = np.random.default_rng(11)
    task = family.draw_task(rng)
    support = family.demonstrate(rng, task, settings.shots)
    model = models["msr"]
    model.reset()
    pictures = {
        "paths": paths(family, task, model.predict, model.adapted(*support)),
        "orbit": {method: orbit_errors(family, adapt) for method, adapt in adapts.items()},
        "symmetry": symmetry(checkpoints["msr"].learner),
    }
    draw(pictures, options.out)
    keep(replace(options, json=options.json or options.out / "results.json"), begun, rows, pictures)
    print_lines(
        demo_lines(rows), f"{FAMILY}, {options.steps} outer steps, {options.tasks} fresh tasks, on ONNX Runtime"
    )
    say("Each row's errors, goals and times belong to that row's own network.")
    say(f"{time.perf_counter() - started:.0f} s on {platform.machine()}, Python {platform.python_version()}")
    say(f"pictures: {options.out}/paths-light.svg, orbit-light.svg, symmetry-light.svg, and -dark.svg of each")


def export(run: Path, bundle: Path) -> Path | ExportError:
    """Export a run's best learner; a process of its own calls this, since an export takes seconds.

    Returns:
        The bundle's folder, or why the exporter refuses: a peer's inner loop may diverge on random samples.
    """
    torch.set_num_threads(1)
    best = load_checkpoint(run)
    try:
        return export_checkpoint(best, bundle, family=load_family(FAMILY))
    except ExportError as refused:
        return refused


def seconds_in_turns(
    models: Mapping[str, AdaptiveModel], family: RingNav, shots: int
) -> dict[str, tuple[float, float]]:
    """Time every model on the same samples, in turns: median seconds of adapt, and of predict for one observation."""
    batch = family.sample(np.random.default_rng(3), 1, shots, 2, "test")
    support, x = (batch.support_x[0], batch.support_y[0]), batch.query_x[0, 0]
    adapt = in_turns(
        {name: lambda model=model: model.adapt(*support, guard=UNLIMITED) for name, model in models.items()}, 100, 1
    )
    predict = in_turns({name: lambda model=model: model.predict(x) for name, model in models.items()}, 50, 20)
    return {name: (float(np.median(adapt[name])), float(np.median(predict[name]))) for name in models}


def _folder(method: str) -> str:
    """The bundle's folder of a method; MSR's is the one that the other programs take."""
    return "bundle" if method == "msr" else f"bundle-{method.removeprefix('msr, ')}"


def _unadapted(model: AdaptiveModel) -> Adapt:
    """How a model acts before it adapts, in the form that `measure` takes."""

    def act(*_support: Array) -> Predict:
        model.reset()
        return model.predict

    return act


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
