"""Run every method of a stored learning result in short, and print all numbers as JSON: `confirm.py` compares them.

It imports the scripts of the checkout that PYTHONPATH names, today's or that of an older commit. So it uses only what
the scripts had when the first of these results was stored.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import families
import longer
import synthetic
import torch
from sharing import controls
from training import Job, drive_reference, learner_config, train

from msr_runtime.meta.training.config import TrainSettings

STEPS, TRAINING_TASKS, TESTED = 20, 48, 4
"""Outer steps, tasks simulated before each run, and fresh tasks that a robot's run is scored on."""


def main(name: str, out: Path) -> None:
    """Train, score and print one line per run.

    Args:
        name: The stored result.
        out: An empty folder for the runs.
    """
    torch.set_num_threads(1)
    for numbers in (_synthetic if name in synthetic.STORED else _robots)(name, out):
        print(json.dumps(numbers), flush=True)


def _robots(stored: str, out: Path) -> Iterator[dict[str, Any]]:
    if stored in families.STORED:
        [family] = families.STORED[stored].families
        learners = {method: learner_config(method) for method in families.STORED[stored].methods}
    else:
        family, learners = longer.FAMILY, longer.LEARNERS
    settings = TrainSettings(steps=STEPS, outer_rate=0.008, training_tasks=TRAINING_TASKS)
    reference = drive_reference(family, TESTED)
    jobs = {method: Job(out / method, family, method, learner, settings) for method, learner in learners.items()}
    ours = jobs[next(iter(jobs))]
    for method, job in jobs.items():
        steps = _steps(job)
        yield {"run": method, "steps": steps, "scores": families.score_job(method, job, TESTED, reference).row}
    for name, make in controls(ours.run).items():
        yield {"run": name, "steps": _steps(ours._replace(run=out / name, learner_class=make))}


def _synthetic(stored: str, out: Path) -> Iterator[dict[str, Any]]:
    settings = TrainSettings(
        steps=STEPS,
        tasks_per_step=32,
        shots=1,
        queries=19,
        training_tasks=TRAINING_TASKS,
        samples_per_task=20,
        augment=False,
    )
    for family in synthetic.STORED[stored].families:
        problem = synthetic.PROBLEMS[family]
        for method, run in problem.runs.items():
            job = Job(out / f"{family} {method}", problem.family, run.method, run.learner, settings)
            steps = _steps(job)
            yield {"run": job.run.name, "steps": steps, "scores": synthetic.score_job(family, method, job)}


def _steps(job: Job) -> list[dict[str, Any]]:
    """Train a job; what its log holds."""
    return [json.loads(line) for line in (train(job) / "metrics.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
