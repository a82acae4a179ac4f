"""Forms of U at growing widths: numbers of U, the time of an outer gradient, and the error beside the full form's.

A full U has as many rows as W has numbers, so it grows with the square of the width. The others do not: fewer columns,
or Kronecker products. All adapt by gradient steps on one robot. Each takes the outer rate with which its first seed has
the lower validation loss. It can be interrupted: finished runs are kept.
"""

import math
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
import tyro
from store import Output, begin, keep, settled
from tables.structure import widths as width_lines
from terminal import print_lines
from training import ROOTS, Job, diverged, learner_config, process_pool, score_run, train_all

from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.training.checkpoint import load_checkpoint
from msr_runtime.meta.training.config import TrainSettings
from msr_runtime.meta.training.outer import Batch, Gradient, OuterLoss, traced_gradient

FORMS = {
    "full, 64 columns": {"filters": 64},
    "full, 16 columns": {"filters": 16},
    "Kronecker": {"form": "kronecker"},
    "Kronecker, 4 terms": {"form": "kronecker", "terms": 4},
}
"""The forms; errors are over those of the first, at the same width."""
OUTER_RATES = (8e-3, 16e-3)


@dataclass(frozen=True)
class Options(Output):
    """What to run."""

    family: str = "ring-nav"
    """The robot."""
    widths: tuple[int, ...] = (64, 128, 256)
    """Units of each of three hidden layers."""
    forms: tuple[str, ...] = tuple(FORMS)
    """The forms."""
    steps: int = 600
    """Outer steps of each run."""
    training_tasks: int = 1200
    """Tasks simulated before each run."""
    seeds: int = 3
    """Seeds of each form and width."""
    tasks: int = 100
    """Fresh tasks to score on."""
    turns: int = 5
    """Outer gradients of each that are timed."""
    out: Path = Path("runs/widths")
    """Folder of the runs; finished ones in it are kept."""


STORED = {"widths": Options()}
"""The stored result, and what it measures."""


class Row(TypedDict):
    """One form of U at one width: a number per seed where a list stands."""

    form: str
    width: int
    outer_rate: float
    symmetry_numbers: int
    """The numbers of every U, or of its factors: what is learned beside the start."""
    adapted_parameters: int
    step_seconds: float
    """The median time of an outer gradient, traced, on one thread."""
    error_orbit: list[float]


class Case(NamedTuple):
    """One form at one width."""

    form: str
    width: int

    @property
    def learner(self) -> LearnerConfig:
        config = learner_config("msr", width=self.width)
        return LearnerConfig.model_validate(config.model_dump() | FORMS[self.form])

    def job(self, options: Options, rate: float, seed: int) -> Job:
        """Return one of its training runs."""
        settings = TrainSettings(steps=options.steps, seed=seed, outer_rate=rate, training_tasks=options.training_tasks)
        run = options.out / f"{options.family} {self.form} {self.width}, {rate:g} {seed}"
        return Job(run, options.family, "msr", self.learner, settings)


def main(options: Options) -> None:
    """Train, score, time and print."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    if unknown := [form for form in options.forms if form not in FORMS]:
        raise SystemExit(f"error: there is no form '{unknown[0]}'; there are {', '.join(FORMS)}")
    begun = begin(options, (*ROOTS, "benchmarks/widths.py"), range(options.seeds))
    cases = [Case(*each) for each in product(options.forms, options.widths)]
    first = {(case, rate): case.job(options, rate, 0) for case in cases for rate in OUTER_RATES}
    train_all(list(first.values()))
    rates = {case: min(OUTER_RATES, key=lambda rate: _validation_loss(first[case, rate])) for case in cases}
    jobs = {case: [case.job(options, rates[case], seed) for seed in range(options.seeds)] for case in cases}
    train_all([job for runs in jobs.values() for job in runs])
    if failed := [job.run for runs in jobs.values() for job in runs if diverged(job.run)]:
        raise SystemExit(f"error: {failed[0]} diverged; delete it, and lower the outer rates")
    with process_pool() as pool:
        errors = {case: list(pool.map(error_orbit, runs, [options.tasks] * len(runs))) for case, runs in jobs.items()}
    seconds = step_seconds(jobs, options.turns)
    rows = []
    for case in cases:
        learner = load_checkpoint(jobs[case][0].run).learner
        rows.append(
            Row(
                form=case.form,
                width=case.width,
                outer_rate=rates[case],
                symmetry_numbers=symmetry_numbers(learner),
                adapted_parameters=learner.adapted_size(),
                step_seconds=seconds[case],
                error_orbit=errors[case],
            )
        )
    print_lines(width_lines(rows), f"{options.family}, {options.steps} outer steps: means over seeds")
    keep(options, begun, rows)


def error_orbit(job: Job, tasks: int) -> float:
    """Return the mean orbit error of a run on fresh tasks."""
    torch.set_num_threads(1)
    return float(score_run(load_checkpoint(job.run), tasks=tasks).orbit.mean())


def symmetry_numbers(learner: Learner) -> int:
    """Return how many numbers every U has, or its factors."""
    parts = (parameter for name, parameter in learner.network.named_parameters() if name.endswith((".U", ".A", ".B")))
    return sum(part.numel() for part in parts)


def step_seconds(jobs: dict[Case, list[Job]], turns: int) -> dict[Case, float]:
    """Time an outer gradient of each case, one after the other's, on random numbers in place of a robot's."""
    rng = np.random.default_rng(0)
    gradients: dict[Case, tuple[Gradient, Batch]] = {}
    for case, runs in jobs.items():
        checkpoint = load_checkpoint(runs[0].run)
        learner, settings = checkpoint.learner, checkpoint.config.settings
        batch = [
            torch.from_numpy(rng.standard_normal((settings.tasks_per_step, samples, *shape), np.float32))
            for samples in (settings.shots, settings.queries)
            for shape in (learner.inputs, learner.outputs)
        ]
        gradients[case] = traced_gradient(OuterLoss(learner), batch), batch
    times: dict[Case, list[float]] = {case: [] for case in gradients}
    for _ in range(turns):
        for case, (gradient, batch) in gradients.items():
            began = time.perf_counter()
            gradient(batch)
            times[case].append(time.perf_counter() - began)
    return {case: float(np.median(taken)) for case, taken in times.items()}


def _validation_loss(job: Job) -> float:
    return math.inf if diverged(job.run) else load_checkpoint(job.run).best


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
