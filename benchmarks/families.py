"""MSR against its rivals on the built-in robots, and against itself with the sharing destroyed.

MAML, ANIL, Meta-SGD and CAVIA adapt by steps, the function encoder by one ridge regression, and attention by none.

Every method gets the same search over depth, width and outer rate: short runs name the best network of each rate,
these are trained in full with every seed, and the lowest mean loss on validation tasks decides, since a high rate is
ahead in every short run, and one seed says little of the others. The choice is scored once on fresh tasks, the same for
all. It can be interrupted: run again, it goes on; runs that other code trained are trained anew. Writes runs/families/
and prints one table per family, with intervals that are paired over tasks.

`W0 free, U random`, `U random` and `U permuted` are MSR with the sharing destroyed (`sharing.py`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
import tyro
from rich.console import Console
from sharing import controls
from store import Output, begin, keep, settled
from tables import NEWTON
from tables import families as family_lines
from terminal import print_lines
from training import (
    ROOTS,
    WITHOUT_STEPS,
    Job,
    Row,
    diverged,
    drive_reference,
    learner_config,
    measure,
    process_pool,
    score_run,
    train_all,
)

from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.training.checkpoint import load_checkpoint
from msr_runtime.meta.training.config import TrainSettings

METHODS = (
    *("msr", "maml", "anil", "meta-sgd", "cavia"),
    *(method + NEWTON for method in ("msr", "anil", "cavia")),
    *WITHOUT_STEPS,
)
"""By gradient steps or, where few numbers adapt, by Gauss-Newton steps too: with MAML's all, a step takes seconds."""
WIDTHS, OUTER_RATES = (64, 128), (8e-3, 16e-3)
TRAINING_TASKS = {"ring-nav": 1200, "hex-drive": 300, "ant": 600, "quadrotor": 600, "arm": 600}
"""Tasks simulated before each run: hex-drive's take longer, and 300 of them are overfitted no more than ring-nav's."""
DRIVES = {"ring-nav": 60, "hex-drive": 24, "ant": 24, "quadrotor": 24, "arm": 24}
"""Fresh tasks in closed loop."""


@dataclass(frozen=True)
class Options(Output):
    """What to run."""

    families: tuple[str, ...] = ("ring-nav", "hex-drive")
    """The families."""
    methods: tuple[str, ...] = METHODS
    """The methods; ratios are over the first of them."""
    depths: tuple[int, ...] = (3, 4)
    """Hidden layers that the search tries."""
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


_BY_GRADIENT = Options(methods=("msr", "cavia", "meta-sgd", "maml", "anil"))
_BY_GAUSS_NEWTON = Options(
    methods=(*(method + NEWTON for method in ("msr", "cavia", "anil")), *WITHOUT_STEPS), control_seeds=1
)
# Of robots with many outputs a Gauss-Newton step of MSR takes more than a second. So the search is smaller and the runs
# are shorter, for every method. MAML, by gradient steps, stands for those that adapt all numbers.
_SHORT = replace(
    _BY_GAUSS_NEWTON,
    methods=(*_BY_GAUSS_NEWTON.methods, "maml"),
    depths=(3,),
    search_steps=200,
    steps=1000,
    control_seeds=0,
)
STORED = {
    f"families-{family}{suffix}": replace(options, families=(family,))
    for family in ("ring-nav", "hex-drive")
    for suffix, options in (("", _BY_GRADIENT), ("-gauss-newton", _BY_GAUSS_NEWTON))
} | {f"families-{family}-gauss-newton": replace(_SHORT, families=(family,)) for family in ("quadrotor", "arm", "ant")}
"""The stored results, and what each of them measures."""


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


class Summary(TypedDict):
    """One method on one family: a number per seed where a list stands."""

    family: str
    method: str
    network: str
    outer_rate: float
    adapted_parameters: int
    seeds: list[int]
    error_sector: list[float]
    error_orbit: list[float]
    error_wide: list[float]
    orbit_ratio: float
    """Mean orbit error over that of the first method."""
    orbit_ratio_interval: tuple[float, float]
    """95 %, bootstrapped over tasks, in pairs."""
    closed_loop_metric: str
    closed_loop_before: list[float]
    closed_loop_after: list[float]
    closed_loop_reference: float


class Scored(NamedTuple):
    """One scored run."""

    row: Row
    orbit: np.ndarray
    """`(tasks,)`: orbit errors."""


def main(options: Options) -> None:
    """Search, train, score and print."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    begun = begin(options, (*ROOTS, "benchmarks/families.py"), range(options.seeds))
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
            score = partial(score_job, tasks=options.tasks, reference=reference)
            scored = list(pool.map(score, labels, ours.values()))
        rates = {method: chosen[family, method].outer_rate for method in options.methods}
        rows += (summaries := summarise(scored, rates))
        print_lines(family_lines(summaries), f"{family}: means over seeds on {options.tasks} fresh tasks")
    keep(options, begun, rows)


def search(options: Options) -> dict[tuple[str, str], list[Choice]]:
    """Train every method shortly in every configuration: the finalists are the best network of each outer rate."""
    jobs: dict[tuple[str, str], dict[Choice, Job]] = {}
    grid = product(options.families, options.methods, options.depths, WIDTHS, OUTER_RATES)
    for family, method, depth, width, rate in grid:
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


def score_job(method: str, job: Job, tasks: int, reference: float) -> Scored:
    """Score one run on fresh tasks, in its table under `method`."""
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(job.run, job.learner_class() if job.learner_class else None)
    scores = score_run(checkpoint, tasks=tasks)
    row = measure(checkpoint, scores, closed_loop_tasks=DRIVES[job.family], reference=reference)
    row["method"] = method
    return Scored(row, scores.orbit)


def summarise(scored: Sequence[Scored], outer_rates: Mapping[str, float]) -> list[Summary]:
    """Put each method's seeds together.

    Args:
        scored: The runs of one family; orbit errors are compared with those of the first run's method.
        outer_rates: The chosen outer rate by method; a control has that of the method it is a control of.
    """
    methods = list(dict.fromkeys(each.row["method"] for each in scored))
    orbit = {m: np.mean([each.orbit for each in scored if each.row["method"] == m], axis=0) for m in methods}
    summaries = []
    for method in methods:
        rows = [each.row for each in scored if each.row["method"] == method]
        summaries.append(
            Summary(
                family=rows[0]["family"],
                method=method,
                network=rows[0]["network"],
                outer_rate=outer_rates.get(method) or outer_rates[_base(method)],
                adapted_parameters=rows[0]["adapted_parameters"],
                seeds=[row["seed"] for row in rows],
                error_sector=[row["error_sector"] for row in rows],
                error_orbit=[row["error_orbit"] for row in rows],
                error_wide=[row["error_wide"] for row in rows],
                orbit_ratio=float(orbit[method].mean() / orbit[methods[0]].mean()),
                orbit_ratio_interval=_ratio_interval(orbit[method], orbit[methods[0]]),
                closed_loop_metric=rows[0]["closed_loop_metric"],
                closed_loop_before=[row["closed_loop_before"] for row in rows],
                closed_loop_after=[row["closed_loop_after"] for row in rows],
                closed_loop_reference=rows[0]["closed_loop_reference"],
            )
        )
    return summaries


def _ratio_interval(method: np.ndarray, msr: np.ndarray) -> tuple[float, float]:
    """Bootstrap the ratio of two means over the same tasks: its 95 % interval."""
    draws = np.random.default_rng(0).integers(len(msr), size=(4000, len(msr)))
    ratios = method[draws].mean(1) / msr[draws].mean(1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
