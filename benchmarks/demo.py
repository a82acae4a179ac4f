"""The whole chain on ring-nav: meta-train, export MSR, adapt it on ONNX Runtime, drive, compare with its peers.

Writes runs/demo/: a folder a method, bundle/ and bundle-gauss-newton/, paths.png, orbit.png and results.json.
"""

import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from pictures import draw_orbit, draw_paths, orbit_errors
from results import print_table, write_json
from rich.console import Console
from training import NEWTON, Job, drive_reference, learner_config, measure, score_run, train_all

from msr_envs.registry import load_family
from msr_envs.ring_nav import RingNav
from msr_export import export_bundle
from msr_runtime import AdaptiveModel
from msr_runtime.meta.checkpoint import load_checkpoint
from msr_runtime.meta.config import TrainSettings
from msr_runtime.meta.predictor import torch_adapt
from msr_runtime.task import Adapt, Array, Predict

FAMILY = "ring-nav"
BUNDLES = {"msr": "bundle", "msr" + NEWTON: "bundle-gauss-newton"}
"""What is exported and adapts on board, and the folders."""
METHODS = ("maml-big", *BUNDLES, "meta-sgd", "maml", "anil", "cavia")
"""The longest run first, so that two cores end together."""
WIDTH = 48
"""Of all networks but MAML (Big)'s, which has as many numbers as MSR's and takes most of the time."""


@dataclass(frozen=True)
class Options:
    """What to run."""

    steps: int = 600
    """Outer steps of every method."""
    tasks: int = 100
    """Fresh tasks to score on."""
    drives: int = 60
    """Fresh tasks to drive in, six drives each."""
    out: Path = Path("runs/demo")
    """Folder of everything that is written; what it held before is replaced."""
    json: Path | None = None
    """A second place for the table."""


def main(options: Options) -> None:
    """Run the demo."""
    torch.set_num_threads(1)
    say, began = Console().print, time.perf_counter()
    shutil.rmtree(options.out, ignore_errors=True)
    family = load_family(FAMILY)
    assert isinstance(family, RingNav)

    say(f"[bold]1/4[/] meta-training {len(METHODS)} methods on {FAMILY}, {options.steps} outer steps each")
    runs = {method: options.out / method.replace(", ", "-") for method in METHODS}
    settings = TrainSettings(steps=options.steps)
    learners = {method: learner_config(method, width=WIDTH) for method in METHODS}
    train_all([Job(runs[method], FAMILY, method, learners[method], settings) for method in METHODS])
    checkpoints = {method: load_checkpoint(run) for method, run in runs.items()}

    say("[bold]2/4[/] freezing U: exporting MSR to ONNX and comparing it with torch")
    models = {}
    for method, folder in BUNDLES.items():
        bundle = export_bundle(
            checkpoints[method].learner,
            checkpoints[method].normalization,
            options.out / folder,
            family=family,
            shots=settings.shots,
            seed=settings.seed,
            config_digest=checkpoints[method].digest,
        )
        model = models[method] = AdaptiveModel.load(bundle)
        say(f"      largest difference {model.manifest.parity.max_relative_error:.1e} (relative); bundle in {bundle}")

    say("[bold]3/4[/] adapting to fresh tasks from ten samples that look one way, and driving every way")
    reference = drive_reference(FAMILY, options.drives)
    rows, orbits = [], {}
    for method in sorted(METHODS, key=lambda method: method not in BUNDLES):
        checkpoint = checkpoints[method]
        on_board = _on_board(models[method]) if method in models else {}
        adapt = on_board.get("adapt") or torch_adapt(checkpoint.learner, checkpoint.normalization)
        scores = score_run(checkpoint, adapt, tasks=options.tasks)
        rows.append(measure(checkpoint, scores, closed_loop_tasks=options.drives, reference=reference, **on_board))
        orbits[method] = orbit_errors(family, adapt)
        say(f"      {method}: orbit error {rows[-1]['error_orbit']:.4f}, goals {rows[-1]['closed_loop_after']:.0%}")

    say("[bold]4/4[/] drawing")
    batch_rng = np.random.default_rng(11)
    task = family.draw_task(batch_rng)
    support_x, support_y = family.demonstrate(batch_rng, task, settings.shots)
    model = models["msr"]
    model.reset()
    draw_paths(options.out / "paths.png", family, task, model.predict, model.adapted(support_x, support_y))
    draw_orbit(options.out / "orbit.png", orbits)
    for path in (options.out / "results.json", options.json):
        if path:
            write_json(path, rows)
    print_table(rows, f"{FAMILY}, {options.steps} outer steps, {options.tasks} fresh tasks (MSR on ONNX Runtime)")
    say(f"{time.perf_counter() - began:.0f} s on {platform.machine()}, Python {platform.python_version()}")
    say(f"pictures: {options.out}/paths.png, {options.out}/orbit.png; table: {options.out}/results.json")


def _on_board(model: AdaptiveModel) -> dict[str, Adapt]:
    """How a model adapts, and how it acts unadapted, in the names that `measure` has for them."""

    def unadapted(*_support: Array) -> Predict:
        model.reset()
        return model.predict

    return {"adapt": model.adapted, "unadapted": unadapted}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
