"""MSR against MAML, ANIL, Meta-SGD and CAVIA on ring-nav and hex-drive, and against itself with the sharing destroyed.

Every method gets the same search over depth, width and outer rate: short runs name the best network of each rate,
these are trained in full with every seed, and the lowest mean loss on validation tasks decides, since a high rate is
ahead in every short run, and one seed says little of the others. The choice is scored once on fresh tasks, the same for
all. It can be interrupted: run again, it goes on. Writes runs/families/ and prints one table a family with paired
intervals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from results import Row, print_table, write_json
from rich.console import Console
from rich.table import Table
from sharing import controls
from training import (
    NEWTON,
    Job,
    diverged,
    drive_reference,
    learner_config,
    measure,
    process_pool,
    score_run,
    train_all,
)

from msr_runtime.meta.checkpoint import load_checkpoint
from msr_runtime.meta.config import TrainSettings
from msr_runtime.meta.learner import LearnerConfig

METHODS = ("msr", "maml", "anil", "meta-sgd", "cavia", *(method + NEWTON for method in ("msr", "anil", "cavia")))
"""By gradient steps or, where few numbers adapt, by Gauss-Newton steps too: with MAML's all, a step takes seconds."""
DEPTHS, WIDTHS, OUTER_RATES = (3, 4), (64, 128), (8e-3, 16e-3)
TRAINING_TASKS = {"ring-nav": 1200, "hex-drive": 300}
"""Tasks simulated before each run: hex-drive's take longer, and 300 of them are overfitted no more than ring-nav's."""
DRIVES = {"ring-nav": 60, "hex-drive": 24}
"""Fresh tasks in closed loop."""


@dataclass(frozen=True)
class Options:
    """What to run."""

    families: tuple[str, ...] = ("ring-nav", "hex-drive")
    """The families."""
    methods: tuple[str, ...] = METHODS
    """The methods; ratios are over the first of them."""
    search_steps: int = 600
    """Outer steps of each short run of the search."""
    steps: int = 3000
    """Outer steps of each run that is scored."""
    seeds: int = 3
    """Seeds of the runs that are scored."""
    control_seeds: int = 3
    """Seeds of the controls, not more than `seeds`."""
    tasks: int = 100
    """Fresh tasks to score on."""
    out: Path = Path("runs/families")
    """Folder of the runs; finished ones in it are kept."""
    json: Path | None = None
    """Where to write the rows."""


class Choice(NamedTuple):
    """What the search chooses for one method on one family."""

    learner: LearnerConfig
    outer_rate: float

    def job(self, run: Path, family: str, method: str, steps: int, seed: int) -> Job:
        """Return a training run of this choice."""
        settings = TrainSettings(
            steps=steps, seed=seed, outer_rate=self.outer_rate, training_tasks=TRAINING_TASKS[family]
        )
        return Job(run, family, method, self.learner, settings)

    def __str__(self) -> str:
        return f"{self.learner.depth}x{self.learner.width}, {self.outer_rate:g}"


class Scored(NamedTuple):
    """One scored run."""

    row: Row
    orbit: np.ndarray
    """`(tasks,)`: orbit errors."""


def main(options: Options) -> None:
    """Search, train, score and print."""
    torch.set_num_threads(1)
    Console().print("[bold]search[/]: depth, width and outer rate of every method, on validation tasks")
    finalists = search(options)
    Console().print("[bold]training[/]: the finalists with every seed, then the controls of the best")
    chosen, jobs = final(finalists, options)
    control_jobs = {}
    sharing = [method for method in options.methods if _base(method) == method]
    for family, ours, seed in product(options.families, sharing, range(options.control_seeds)):
        trained = jobs[family, ours, seed]
        for name, learner_class in controls(trained.run).items():
            method = name + ours.removeprefix("msr")
            run = options.out / f"{family} {method} {seed}"
            control_jobs[family, method, seed] = trained._replace(run=run, method=method, learner_class=learner_class)
    train_all(list(control_jobs.values()))
    jobs |= control_jobs
    rows = []
    for family in options.families:
        reference = drive_reference(family, DRIVES[family])
        ours = {key[1:]: job for key, job in jobs.items() if key[0] == family}
        labels = [method for method, _ in ours]
        with process_pool() as pool:
            score = partial(_score, tasks=options.tasks, reference=reference)
            scored = list(pool.map(score, labels, ours.values()))
        rows += [each.row for each in scored]
        print_table([each.row for each in scored], f"{family}: every seed on {options.tasks} fresh tasks")
        _print_summary(family, scored, chosen)
    if options.json:
        write_json(options.json, rows)


def search(options: Options) -> dict[tuple[str, str], list[Choice]]:
    """Train every method shortly in every configuration: the finalists are the best network of each outer rate."""
    jobs: dict[tuple[str, str], dict[Choice, Job]] = {}
    for family, method, depth, width, rate in product(options.families, options.methods, DEPTHS, WIDTHS, OUTER_RATES):
        choice = Choice(learner_config(method, depth, width), rate)
        run = options.out / "search" / f"{family} {method} {choice}"
        jobs.setdefault((family, method), {})[choice] = choice.job(run, family, method, options.search_steps, 0)
    train_all([job for configurations in jobs.values() for job in configurations.values()])
    return {
        key: [
            min((c for c in configurations if c.outer_rate == rate), key=lambda c: _validation_loss(configurations[c]))
            for rate in OUTER_RATES
        ]
        for key, configurations in jobs.items()
    }


def final(
    finalists: dict[tuple[str, str], list[Choice]], options: Options
) -> tuple[dict[tuple[str, str], Choice], dict[tuple[str, str, int], Job]]:
    """Train the finalists with every seed; the lowest mean validation loss decides. Returns choices and their runs."""
    jobs = {
        (key, choice): [
            choice.job(options.out / f"{' '.join(key)} {choice} {seed}", *key, options.steps, seed)
            for seed in range(options.seeds)
        ]
        for key, choices in finalists.items()
        for choice in choices
    }
    train_all([job for runs in jobs.values() for job in runs])
    chosen = {
        key: min(choices, key=lambda choice: np.mean([_validation_loss(job) for job in jobs[key, choice]]))
        for key, choices in finalists.items()
    }
    return chosen, {(*key, seed): jobs[key, chosen[key]][seed] for key in chosen for seed in range(options.seeds)}


def _base(control: str) -> str:
    """The method of which a control is one."""
    return "msr" + (NEWTON if control.endswith(NEWTON) else "")


def _validation_loss(job: Job) -> float:
    return math.inf if diverged(job.run) else load_checkpoint(job.run).best


def _score(method: str, job: Job, tasks: int, reference: float) -> Scored:
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(job.run, job.learner_class() if job.learner_class else None)
    scores = score_run(checkpoint, tasks=tasks)
    row = measure(checkpoint, scores, closed_loop_tasks=DRIVES[job.family], reference=reference)
    row["method"] = method
    return Scored(row, scores.orbit)


def _print_summary(family: str, scored: Sequence[Scored], chosen: dict[tuple[str, str], Choice]) -> None:
    methods = list(dict.fromkeys(each.row["method"] for each in scored))
    table = Table(title=f"{family}: means over seeds; orbit error over {methods[0]}'s, 95 % interval paired over tasks")
    for head in ("method", "network, rate", "sector", "orbit", "wide", "orbit/sector", "orbit/first", "closed loop"):
        table.add_column(head, justify="left" if head == "method" else "right")
    orbit = {m: np.mean([each.orbit for each in scored if each.row["method"] == m], axis=0) for m in methods}
    for method in methods:
        rows = [each.row for each in scored if each.row["method"] == method]
        sector, over, wide, after = (
            np.mean([row[key] for row in rows])
            for key in ("error_sector", "error_orbit", "error_wide", "closed_loop_after")
        )
        low, high = _ratio_interval(orbit[method], orbit[methods[0]])
        table.add_row(
            method,
            str(chosen[family, method if (family, method) in chosen else _base(method)]),
            *(f"{value:.4f}" for value in (sector, over, wide)),
            f"{over / sector:.2f}",
            f"{over / orbit[methods[0]].mean():.2f} ({low:.2f} to {high:.2f})",
            f"{after:.4f}",
        )
    Console(width=140).print(table)


def _ratio_interval(method: np.ndarray, msr: np.ndarray) -> tuple[float, float]:
    """Bootstrap the ratio of two means over the same tasks: its 95 % interval."""
    draws = np.random.default_rng(0).integers(len(msr), size=(4000, len(msr)))
    ratios = method[draws].mean(1) / msr[draws].mean(1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
