"""What the guards let through, on fresh tasks of both robots and in ring-nav drives.

Updates: MSR is trained and exported with gradient and with Gauss-Newton steps. Each bundle adapts to samples that are
clean, noisy or partly wrong, with its guard and without. Drives: the loop of the README, in simulated time, with and
without late observations and skipped periods, and with real faults.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
import tyro
from guard_drives import DriveRow, FaultRow, drives, faults
from numpy.typing import NDArray
from rich.console import Console
from store import EXPORT, RUNTIME, Output, begin, keep, settled
from tables import NEWTON, guard_drives, guard_faults, guard_updates
from terminal import print_lines
from training import ROOTS, Job, learner_config, process_pool, train_all

from msr_envs.registry import load_family
from msr_export import export_checkpoint
from msr_runtime import AdaptiveModel
from msr_runtime.meta.evaluation.scores import output_scales, score_sample
from msr_runtime.meta.training.checkpoint import load_checkpoint
from msr_runtime.meta.training.config import TrainSettings
from msr_runtime.task import Predict, TaskFamily, field_slices

ROBOTS = ("ring-nav", "hex-drive")
METHODS = {"gradient": "msr", "gauss-newton": "msr" + NEWTON}
"""The rule of an inner step, and the name of MSR with it."""
DRIVEN = ("ring-nav", "gauss-newton")
"""The bundle that drives."""
MEASURED = (*ROOTS, *EXPORT, *RUNTIME, "msr_runtime/control", "benchmarks/guard.py", "benchmarks/guard_drives.py")
_QUERIES = 64
"""Queries per query set, which tell whether an update helped."""


@dataclass(frozen=True)
class Options(Output):
    """What to run."""

    steps: int = 400
    """Outer steps of each training."""
    width: int = 48
    """Units of each hidden layer."""
    validation_tasks: int = 200
    """Tasks on which the export measures the limits."""
    clean_tasks: int = 1000
    """Fresh tasks with clean samples."""
    tasks: int = 200
    """Fresh tasks for each kind of bad samples."""
    robots: int = 40
    """Fresh ring-nav robots, each of which drives five times under one guard."""
    out: Path = Path("runs/guard")
    """Folder of runs and bundles. A run that today's code has trained is used again."""


STORED = {"guard": Options()}
"""The stored result, and what it measures."""


class UpdateRow(TypedDict):
    """One kind of samples on one robot with one rule. Errors are relative squared errors: zeros have an error of 1."""

    robot: str
    rule: str
    samples: str
    tasks: int
    worse_plain: int
    """Tasks on which adapting without a guard is worse than not adapting."""
    accepted: int
    worse_accepted: int
    """Accepted updates that are worse than not adapting."""
    cleaned: int
    """Accepted updates that left out samples."""
    refused: dict[str, int]
    error_v0: float
    """Median, without adapting."""
    error_plain: float
    """Median, adapted without a guard."""
    error_guarded: float
    """Median of the network that acts: the adapted one, or that at v0 where the update was refused."""


class Scale(NamedTuple):
    """What y is measured in: `(out,)` each."""

    deviation: NDArray
    """One scale of the normalization."""
    low: NDArray
    high: NDArray


Spoil = Callable[[np.random.Generator, NDArray, Scale], NDArray]
"""Takes clean y `(shots, out)` and returns what a bad sensor gives."""


def noise(size: float) -> Spoil:
    """Normal noise on each number."""
    return lambda rng, y, scale: y + size * scale.deviation * rng.standard_normal(y.shape)


def off(count: int, size: float) -> Spoil:
    """Some samples are off by so many scales in each number, up or down."""

    def spoil(rng: np.random.Generator, y: NDArray, scale: Scale) -> NDArray:
        bad = rng.choice(len(y), count, replace=False)
        y[bad] += size * scale.deviation * rng.choice([-1, 1], (count, y.shape[1]))
        return y

    return spoil


def anywhere(count: int) -> Spoil:
    """Some samples are anything between the bounds of their fields."""

    def spoil(rng: np.random.Generator, y: NDArray, scale: Scale) -> NDArray:
        y[rng.choice(len(y), count, replace=False)] = rng.uniform(scale.low, scale.high, (count, y.shape[1]))
        return y

    return spoil


def stuck(rng: np.random.Generator, y: NDArray, scale: Scale) -> NDArray:
    """The sensor of y gives one value for ever, anywhere between the bounds."""
    return np.broadcast_to(rng.uniform(scale.low, scale.high), y.shape)


CLEAN = "clean"
SAMPLES: Mapping[str, Spoil] = {
    CLEAN: lambda _rng, y, _scale: y,
    "noise, 0.1 scales": noise(0.1),
    "noise, 0.3 scales": noise(0.3),
    "noise, 1 scale": noise(1.0),
    "1 of 10 off by 3 scales": off(1, 3.0),
    "1 of 10 off by 10 scales": off(1, 10.0),
    "2 of 10 off by 10 scales": off(2, 10.0),
    "4 of 10 off by 10 scales": off(4, 10.0),
    "1 of 10 anywhere in its bounds": anywhere(1),
    "2 of 10 anywhere in its bounds": anywhere(2),
    "y stuck": stuck,
}


def main(options: Options) -> None:
    """Train, export, and measure."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    begun = begin(options, MEASURED, seeds=(0,))
    say, started = Console().print, time.perf_counter()
    settings = TrainSettings(steps=options.steps)
    jobs = {
        (robot, rule): Job(
            options.out / f"{robot}-{rule}", robot, method, learner_config(method, width=options.width), settings
        )
        for robot in ROBOTS
        for rule, method in METHODS.items()
    }
    train_all(list(jobs.values()))
    say(f"trained after {time.perf_counter() - started:.0f} s")
    rows: list[UpdateRow] = []
    with process_pool() as pool:
        for part in pool.map(measure, jobs, (job.run for job in jobs.values()), [options] * len(jobs)):
            rows += part
    say(f"updates measured after {time.perf_counter() - started:.0f} s")
    model = AdaptiveModel.load(jobs[DRIVEN].run / "bundle", check_inputs=True)
    driven: list[DriveRow] = drives(model, options.robots)
    failed: list[FaultRow] = faults(model, options.robots)
    keep(replace(options, json=options.json or options.out / "results.json"), begun, [*rows, *driven, *failed])
    print_lines(guard_updates(rows), "updates, on ONNX Runtime")
    print_lines(guard_drives(driven), "ring-nav drives without a real fault")
    print_lines(guard_faults(failed), "ring-nav drives with a real fault")
    say(f"{time.perf_counter() - started:.0f} s")


def measure(robot_and_rule: tuple[str, str], run: Path, options: Options) -> list[UpdateRow]:
    """Export one run and adapt its bundle to every kind of samples; a process of its own calls this."""
    torch.set_num_threads(1)
    robot, rule = robot_and_rule
    family, checkpoint = load_family(robot), load_checkpoint(run)
    shots = checkpoint.config.settings.shots
    bundle = export_checkpoint(checkpoint, run / "bundle", family=family, validation_tasks=options.validation_tasks)
    model = AdaptiveModel.load(bundle)
    return [
        UpdateRow(robot=robot, rule=rule, samples=name, **_adapt(model, family, spoil, shots, count))
        for name, spoil in SAMPLES.items()
        for count in [options.clean_tasks if name == CLEAN else options.tasks]
    ]


def _adapt(model: AdaptiveModel, family: TaskFamily, spoil: Spoil, shots: int, tasks: int) -> dict:
    """Adapt to fresh tasks, equal for all kinds of samples, and count."""
    batch = family.sample(np.random.default_rng(4), tasks, shots, _QUERIES * len(family.query_sets), "test")
    rng, scale = np.random.default_rng(5), _scale(model)
    unit = output_scales(family, batch.query_y)
    size = score_sample(family, unit, np.zeros(1), batch.query_y)
    errors: list[tuple[float, float, float]] = []
    accepted, cleaned, refused = [], 0, {}
    for x, y, query_x, query_y in zip(*batch, strict=True):

        def error(predict: Predict, x: NDArray = query_x, y: NDArray = query_y) -> float:
            return score_sample(family, unit, predict(x), y) / size

        seen = spoil(rng, y.astype(np.float64), scale).astype(np.float32)
        model.reset()
        before, plain = error(model.predict), error(model.adapted(x, seen))
        result = model.adapt(x, seen)
        errors.append((before, plain, error(model.predict)))
        accepted.append(result.accepted)
        cleaned += result.accepted and bool(result.left_out)
        if result.refusal:
            refused[result.refusal] = refused.get(result.refusal, 0) + 1
    before, plain, guarded = np.array(errors).T
    acts = np.array(accepted)
    return {
        "tasks": tasks,
        "worse_plain": int(np.sum(plain > before)),
        "accepted": int(acts.sum()),
        "worse_accepted": int(np.sum(guarded[acts] > before[acts])),
        "cleaned": cleaned,
        "refused": {str(name): count for name, count in refused.items()},
        "error_v0": float(np.median(before)),
        "error_plain": float(np.median(plain)),
        "error_guarded": float(np.median(guarded)),
    }


def _scale(model: AdaptiveModel) -> Scale:
    outputs = model.manifest.outputs
    places = field_slices(outputs)
    low, high = np.empty(model.sample_specs[1].shape), np.empty(model.sample_specs[1].shape)
    for field in outputs:
        low[places[field.name]], high[places[field.name]] = field.low, field.high
    return Scale(np.array(model.manifest.normalization.output_scale), low, high)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
