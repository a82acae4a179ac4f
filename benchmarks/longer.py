"""hex-drive trained for longer: eight times the outer steps on five times the tasks, by Gauss-Newton steps.

MSR has half the filter parameters that `families.py` gives it. Scored as there, on the same fresh tasks. Run again, it
goes on where it was interrupted. On one core, a run takes half an hour for MSR and ten minutes for CAVIA.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from families import DRIVES, score_job, summarise
from store import Output, begin, keep, settled
from tables import NEWTON
from tables import families as family_lines
from terminal import print_lines
from training import ROOTS, Job, drive_reference, learner_config, process_pool, train_all

from msr_runtime.meta.training.config import TrainSettings

FAMILY, OUTER_RATE = "hex-drive", 0.016
LEARNERS = {
    "msr" + NEWTON: learner_config("msr" + NEWTON).model_copy(update={"filters": 32}),
    "cavia" + NEWTON: learner_config("cavia" + NEWTON, width=128),
}
"""The methods that are compared; ratios are over the first."""


@dataclass(frozen=True)
class Options(Output):
    """What to run."""

    steps: int = 24_000
    """Outer steps of each run."""
    training_tasks: int = 1500
    """Tasks simulated before each run."""
    seeds: int = 3
    """Seeds of each method."""
    tasks: int = 100
    """Fresh tasks to score on."""
    out: Path = Path("runs/longer")
    """Folder of the runs; finished ones in it are kept."""


STORED = {"families-hex-drive-long": Options()}
"""The stored result, and what it measures."""


def main(options: Options) -> None:
    """Train, score and print."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    begun = begin(options, (*ROOTS, "benchmarks/families.py", "benchmarks/longer.py"), range(options.seeds))
    jobs = []
    for method, learner in LEARNERS.items():
        for seed in range(options.seeds):
            settings = TrainSettings(
                steps=options.steps, seed=seed, outer_rate=OUTER_RATE, training_tasks=options.training_tasks
            )
            jobs.append(Job(options.out / f"{FAMILY} {method} {seed}", FAMILY, method, learner, settings))
    train_all(jobs)
    reference = drive_reference(FAMILY, DRIVES[FAMILY])
    with process_pool() as pool:
        scored = [pool.submit(score_job, job.method, job, options.tasks, reference) for job in jobs]
        rows = summarise([each.result() for each in scored], dict.fromkeys(LEARNERS, OUTER_RATE))
    print_lines(family_lines(rows), f"{FAMILY}, {options.steps} outer steps: means over seeds")
    keep(options, begun, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
