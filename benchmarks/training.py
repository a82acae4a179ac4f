"""Train many methods side by side, one process per core and one thread per process, and score what they learned."""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from store import TRAINING, digest_of
from tables import NEWTON

from msr_envs.registry import load_family
from msr_runtime.errors import TrainingError
from msr_runtime.meta.evaluation.predictor import torch_adapt, torch_unadapted
from msr_runtime.meta.evaluation.scores import Scores, score
from msr_runtime.meta.learners.attention import Attention
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.symmetry.reparameterize import fold
from msr_runtime.meta.training.checkpoint import LAST, Checkpoint
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.trainer import train as meta_train
from msr_runtime.task import Adapt, ClosedLoopFamily, Split

ROOTS = (*TRAINING, "benchmarks/training.py", "benchmarks/sharing.py")
"""The code that decides what a run learns and how it is scored."""
WITHOUT_STEPS = ("function-encoder", "attention")
"""Methods that take no steps, and so have no rates to start from. Their tables are those of the Gauss-Newton steps."""
CODE = "code.sha256"
"""File in a run's folder: the digest of the code that trained it."""


class Row(TypedDict):
    """One trained run on one family; errors are relative squared errors, means over fresh tasks."""

    family: str
    method: str
    network: str
    seed: int
    adapted_parameters: int
    error_sector: float
    error_orbit: float
    error_wide: float
    equivariance_error: float
    closed_loop_metric: str
    closed_loop_before: float
    closed_loop_after: float
    closed_loop_reference: float


def learner_config(method: str, depth: int = 3, width: int = 64) -> LearnerConfig:
    """Return a method's configuration; methods differ in where their inner rates start, and in nothing else.

    Behind a method's name may stand `NEWTON`: two Gauss-Newton steps then, in place of the gradient steps.

    One gradient step moves a network's output in proportion to its width, so the start shrinks with it: wide networks
    diverge from 0.1 before they have learned anything. A context of zeros moves the output less than weights do. The
    filter parameters of MSR grow with the width: 64 a tensor suit 64 units better than 32 do.
    """
    config = LearnerConfig(depth=depth, width=width, filters=min(width, 64))
    if method in WITHOUT_STEPS:
        return config
    if method.endswith(NEWTON):
        return config.model_copy(update={"rule": "gauss-newton", "inner_steps": 2})
    widest = 8 * width if method == "maml-big" else width  # that is how wide a network as big as MSR's is, about
    rate = 0.5 if method == "cavia" else 0.1 * (48 / widest)
    return config.model_copy(update={"rule": "gradient", "inner_steps": 5, "inner_rate": rate})


class Job(NamedTuple):
    """One training run."""

    run: Path
    family: str
    method: str
    """Its name in tables, see `NEWTON`."""
    learner: LearnerConfig
    settings: TrainSettings
    learner_class: Callable[[], type[Learner]] | None = None
    """Makes the class of a learner that is not built in, inside the worker."""


def train(job: Job) -> Path:
    """Train one job, or go on with it where it was interrupted, or leave it if it is finished.

    A run that other code trained is deleted and trained anew: its figures would not be those of today's code. A run
    that diverges ends where it does, and `diverged` tells.
    """
    discard_if_outdated(job.run)
    if _step(job.run) == job.settings.steps:
        return job.run  # without simulating its tasks again
    torch.set_num_threads(1)
    family = load_family(job.family)
    config = TrainConfig.of(family, job.method.removesuffix(NEWTON), job.learner, job.settings)
    resume = (job.run / LAST).exists()
    chosen = job.learner_class() if job.learner_class else None
    with suppress(TrainingError):
        meta_train(family, config, job.run, learner=chosen, resume=resume, progress=False)
    return job.run


def discard_if_outdated(run: Path) -> None:
    """Delete a run that other code trained than today's, saying so, and note today's code in the run's folder."""
    code, today = run / CODE, digest_of(ROOTS)
    if run.exists() and (not code.exists() or code.read_text() != today):
        print(f"{run} was trained by other code than today's: it is trained anew", flush=True)
        shutil.rmtree(run)
    run.mkdir(parents=True, exist_ok=True)
    code.write_text(today)


def train_all(jobs: Sequence[Job]) -> None:
    """Train the jobs in as many processes as there are cores, with one bar per job that is at work."""
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with process_pool() as pool, Progress(*columns) as progress:
        futures: dict[Future[Path], Job] = {pool.submit(train, job): job for job in jobs}
        bars: dict[Future[Path], TaskID | None] = dict.fromkeys(futures)
        while bars:
            for future in list(bars):
                job = futures[future]
                step = _step(job.run)
                bar = bars[future]
                if bar is None and (step or future.done()):
                    bar = bars[future] = progress.add_task(job.run.name, total=job.settings.steps)
                if bar is not None:
                    progress.update(bar, completed=step)
                if future.done():
                    future.result()
                    if not progress.console.is_terminal:
                        progress.console.print(f"{'diverged' if diverged(job.run) else 'trained'} {job.run.name}")
                    del bars[future]
            time.sleep(0.2)


def process_pool() -> ProcessPoolExecutor:
    """Return a pool with one process per core and one thread per process."""
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers read it when they load their numeric libraries
    return ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))


def score_run(checkpoint: Checkpoint, adapt: Adapt | None = None, *, split: Split = "test", tasks: int = 100) -> Scores:
    """Score a run on fresh tasks that are the same for every method; `adapt` replaces torch, if given."""
    family = load_family(checkpoint.config.family)
    adapt = adapt or torch_adapt(checkpoint.learner, checkpoint.normalization)
    shots = checkpoint.config.settings.shots
    return score(family, adapt, np.random.default_rng(1), tasks=tasks, shots=shots, split=split)


def measure(
    checkpoint: Checkpoint,
    scores: Scores,
    *,
    adapt: Adapt | None = None,
    unadapted: Adapt | None = None,
    closed_loop_tasks: int,
    reference: float,
) -> Row:
    """Put a run's row together: its scores, and its closed loop before and after adaptation.

    `adapt` and `unadapted` replace torch, if given; `reference` is `drive_reference` of the same tasks.
    """
    learner, config = checkpoint.learner, checkpoint.config
    adapt = adapt or torch_adapt(learner, checkpoint.normalization)
    unadapted = unadapted or torch_unadapted(learner, checkpoint.normalization)
    family = load_family(config.family)
    assert isinstance(family, ClosedLoopFamily)
    before = family.evaluate(unadapted, np.random.default_rng(2), closed_loop_tasks, "test")
    after = family.evaluate(adapt, np.random.default_rng(2), closed_loop_tasks, "test")
    return Row(
        family=config.family,
        method=config.method + (NEWTON if config.learner.rule == "gauss-newton" else ""),
        network=network_size(learner),
        seed=config.seed,
        adapted_parameters=learner.adapted_size(),
        error_sector=float(scores.sets["sector"].mean()),
        error_orbit=float(scores.orbit.mean()),
        error_wide=float(scores.sets["wide"].mean()),
        equivariance_error=float(scores.equivariance.mean()),
        closed_loop_metric=f"{after.metric}, {after.unit}" if after.unit != "1" else f"{after.metric}, share",
        closed_loop_before=float(before.values.mean()),
        closed_loop_after=float(after.values.mean()),
        closed_loop_reference=reference,
    )


def network_size(learner: Learner) -> str:
    """Return hidden layers and units of each, as `3x64`: read from the weights, since MAML (Big) chooses its own width.

    Of attention, the blocks and the length of a token.
    """
    if isinstance(learner, Attention):
        return f"{learner.config.depth}x{learner.config.width}"
    weights = [weight for name, weight in fold(learner.network).items() if name.endswith("weight")]
    return f"{len(weights) - 1}x{len(weights[0])}"


def drive_reference(family_name: str, tasks: int) -> float:
    """Drive the family's reference controller on the tasks that `measure` uses: the mean of its metric."""
    family = load_family(family_name)
    assert isinstance(family, ClosedLoopFamily)
    return float(family.evaluate(None, np.random.default_rng(2), tasks, "test").values.mean())


def diverged(run: Path) -> bool:
    """Tell whether a run ended without a single checkpoint."""
    return not (run / LAST).exists()


def _step(run: Path) -> int:
    """Return the last step in a run's metrics, 0 before the first."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"] if lines else 0
    except (OSError, json.JSONDecodeError):
        return 0
