"""The paper's one-dimensional problems: what one gradient step can show of a symmetry, and what ridge regression can.

Filters of width 3 over a signal of 70, shared by all positions (rank 1) or mixed from 2 or 5 of them. MSR and MAML on
one fully connected layer, support of one example, un-augmented (Algorithm 1 of Zhou et al., 2021). Prints the error on
fresh tasks beside what the authors' own program reached, and how much of the exact space of filters U holds.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
import tyro
from results import write_json
from rich.console import Console
from rich.table import Table
from training import Job, process_pool, train_all

from msr_envs.registry import load_family
from msr_envs.synthetic import LinearTasks
from msr_runtime.meta.checkpoint import load_checkpoint
from msr_runtime.meta.config import TrainSettings
from msr_runtime.meta.forms import FullSymmetry
from msr_runtime.meta.learner import LearnerConfig
from msr_runtime.meta.predictor import torch_adapt
from msr_runtime.meta.structure import recovery

FILTERS = {"rank1": 3, "rank2": 6, "rank5": 30}
"""The authors' k."""
AUTHORS = {
    "rank1": {"msr, one gradient step": 0.176, "maml, one gradient step": 2.999},
    "rank2": {"msr, one gradient step": 0.487, "maml, one gradient step": 1.975},
    "rank5": {"msr, one gradient step": 0.376, "maml, one gradient step": 0.994},
}
"""Mean squared errors of the authors' public program, run once with its defaults: 1,000 outer steps, one seed."""
METHODS = {
    "msr, one gradient step": ("msr", LearnerConfig(depth=0, bias=False, inner_steps=1, inner_rate=3.0)),
    "msr, ridge": ("msr", LearnerConfig(depth=0, bias=False, rule="ridge", damping=1e-4)),
    "maml, one gradient step": ("maml", LearnerConfig(depth=0, bias=False, inner_steps=1, inner_rate=3.0)),
}
"""The methods; the gradient's rate starts near the best for one step, and is learned by all."""
TESTED = 300
"""Fresh tasks, as many as the authors test on."""


@dataclass(frozen=True)
class Options:
    """What to run."""

    families: tuple[str, ...] = tuple(FILTERS)
    """The problems."""
    steps: int = 1000
    """Outer steps of each run, as many as the authors'."""
    seeds: int = 3
    """Seeds of each."""
    out: Path = Path("runs/synthetic")
    """Folder of the runs; finished ones in it are kept."""
    json: Path | None = None
    """Where to write the rows."""


class Recovered(TypedDict):
    """One scored run."""

    family: str
    method: str
    seed: int
    error: float
    """Mean squared error over tasks, raw units."""
    interval: float
    """Half of the 95 % interval of that mean."""
    recovery: float | None
    """`structure.recovery` of U; None without one."""
    authors: float | None
    """What the authors' program reached; None for what it does not hold."""


def main(options: Options) -> None:
    """Train, score and print."""
    torch.set_num_threads(1)
    jobs = []
    for family, (method, (name, learner)), seed in product(options.families, METHODS.items(), range(options.seeds)):
        settings = TrainSettings(
            steps=options.steps,
            seed=seed,
            tasks_per_step=32,
            shots=1,
            queries=19,
            training_tasks=8000,
            samples_per_task=20,
            augment=False,
        )
        sized = learner.model_copy(update={"filters": FILTERS[family]})
        jobs.append((method, Job(options.out / f"{family} {method} {seed}", family, name, sized, settings)))
    train_all([job for _, job in jobs])
    with process_pool() as pool:
        rows = list(pool.map(_score, *zip(*jobs, strict=True)))
    _print(rows)
    if options.json:
        write_json(options.json, rows)


def _score(method: str, job: Job) -> Recovered:
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(job.run)
    family = load_family(job.family)
    assert isinstance(family, LinearTasks)
    batch = family.sample(np.random.default_rng(1), TESTED, 1, 19, "test")
    adapt = torch_adapt(checkpoint.learner, checkpoint.normalization)
    errors = np.array([np.mean((adapt(sx, sy)(qx) - qy) ** 2) for sx, sy, qx, qy in zip(*batch, strict=True)])
    found = [module for module in checkpoint.learner.modules() if isinstance(module, FullSymmetry)]
    return Recovered(
        family=job.family,
        method=method,
        seed=job.settings.seed,
        error=float(errors.mean()),
        interval=float(1.96 * errors.std() / len(errors) ** 0.5),
        recovery=recovery(found[0].U.detach().numpy(), family.filter_space()) if found else None,
        authors=AUTHORS[job.family].get(method),
    )


def _print(rows: list[Recovered]) -> None:
    table = Table(title=f"mean squared error on {TESTED} fresh tasks, mean over seeds")
    for head in ("problem", "method", "error", "± over tasks", "seeds", "authors", "recovery"):
        table.add_column(head, justify="left" if head in ("problem", "method") else "right")
    for family, method in dict.fromkeys((row["family"], row["method"]) for row in rows):
        ours = [row for row in rows if (row["family"], row["method"]) == (family, method)]
        errors, held = [row["error"] for row in ours], [row["recovery"] for row in ours if row["recovery"] is not None]
        authors = ours[0]["authors"]
        table.add_row(
            family,
            method,
            f"{np.mean(errors):.4f}",
            f"{np.mean([row['interval'] for row in ours]):.4f}",
            f"{min(errors):.4f} to {max(errors):.4f}",
            "" if authors is None else f"{authors:.3f}",
            f"{np.mean(held):.4f}" if held else "",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
