"""How meta-training scales: tasks a second against processes, and peak memory against inner steps.

This program starts itself again under `torchrun`; the memory is what torch holds at most in one outer gradient of one
process, on the CPU, beyond the learner and the batch, with the inner steps kept and with them recomputed, beside the
time that recomputing takes. Gradients are traced; an eager one holds as much.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
import tyro
from store import TRAINING, Output, begin, keep, settled
from tables import memory as memory_lines
from tables import processes as process_lines
from terminal import print_lines
from torch.profiler import ProfilerActivity, profile
from training import learner_config

from msr_envs.registry import load_family
from msr_runtime.meta.training.checkpoint import build_learner
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.distributed import processes
from msr_runtime.meta.training.outer import Batch, Gradient, OuterLoss, traced_gradient
from msr_runtime.meta.training.trainer import train
from msr_runtime.task import width

TURNS = 21


@dataclass(frozen=True)
class Options(Output):
    """What to measure."""

    family: str = "ring-nav"
    """The family, by any name that `msr train` takes."""
    processes: tuple[int, ...] = (1, 2)
    """How many processes share the tasks of an outer step."""
    steps: int = 1000
    """Outer steps of each timed run; from 400 on its gradient is traced, which the time then includes."""
    tasks: tuple[int, ...] = (16, 64)
    """Tasks in each outer step: a few cost a process nearly as much as one does. Memory is measured with the last."""
    inner_steps: tuple[int, ...] = (1, 3, 5, 10)
    """Inner steps at which memory is measured."""
    seconds_to: Path | None = None
    """Only for the processes that this program starts: where the first one writes how long it trained."""


STORED = {"scaling": Options()}
"""The stored result, and what it measures."""


class Speed(TypedDict):
    """One timed run."""

    tasks: int
    processes: int
    seconds: float
    tasks_per_second: float
    ratio: float
    """To the tasks a second of the first number of processes."""


class Memory(TypedDict):
    """What torch holds at most in one outer gradient."""

    tasks: int
    inner_steps: int
    megabytes: float
    """10^6 bytes, the inner steps kept."""
    megabytes_recomputed: float
    """The same, the inner steps recomputed."""
    time_ratio: float
    """Of recomputing to keeping: the median over turns, one after the other's."""


def main(options: Options) -> None:
    """Measure and print."""
    options = settled(options, STORED)
    begun = begin(options, (*TRAINING, "benchmarks/training.py", "benchmarks/scaling.py"), seeds=(0,))
    speeds = [row for tasks in options.tasks for row in _speeds(options, tasks)]
    tasks = options.tasks[-1]
    memory = [_memory(options, tasks, steps) for steps in options.inner_steps]
    print_lines(process_lines(speeds), f"{options.family}: {os.cpu_count()} cores")
    print_lines(memory_lines(memory), f"what torch holds at most in one outer gradient of {tasks} tasks")
    keep(options, begun, [*speeds, *memory])


def time_one_run(options: Options) -> None:
    """Train as one of the processes that torchrun started; the first writes the seconds to a file."""
    torch.set_num_threads(1)
    family = load_family(options.family)
    with processes() as joined, tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        config = _config(options, options.tasks[0])
        seconds = train(family, config, run, progress=False, processes=joined).seconds
        if joined.first and options.seconds_to:
            options.seconds_to.write_text(json.dumps(seconds))


def _speeds(options: Options, tasks: int) -> list[Speed]:
    speeds: list[Speed] = []
    for count in options.processes:
        seconds = _time_in_processes(options, tasks, count)
        speed = options.steps * tasks / seconds
        ratio = speed / speeds[0]["tasks_per_second"] if speeds else 1.0
        speeds.append(Speed(tasks=tasks, processes=count, seconds=seconds, tasks_per_second=speed, ratio=ratio))
    return speeds


def _time_in_processes(options: Options, tasks: int, count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "seconds.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command += [__file__, "--family", options.family, "--steps", str(options.steps), "--tasks", str(tasks)]
        subprocess.run([*command, "--seconds-to", str(result)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return json.loads(result.read_text())


def _config(options: Options, tasks: int, inner_steps: int = 5) -> TrainConfig:
    settings = TrainSettings(
        steps=options.steps,
        tasks_per_step=tasks,
        validation_every=options.steps,
        insist_on_augmentation=True,  # its test takes seconds, and is not what is measured
    )
    learner = learner_config("msr").model_copy(update={"inner_steps": inner_steps})
    return TrainConfig.of(load_family(options.family), "msr", learner, settings, source=options.family)


def _memory(options: Options, tasks: int, inner_steps: int) -> Memory:
    """Measure an outer gradient on random numbers."""
    torch.set_num_threads(1)
    config = _config(options, tasks, inner_steps)
    learner = build_learner(config)
    x, y = width(config.inputs), width(config.outputs)
    rng = np.random.default_rng(0)
    batch = [
        torch.from_numpy(rng.normal(size=(tasks, samples, size)).astype(np.float32))
        for samples in (config.settings.shots, config.settings.queries)
        for size in (x, y)
    ]
    kept, again = (traced_gradient(OuterLoss(learner, recompute=recompute), batch) for recompute in (False, True))
    return Memory(
        tasks=tasks,
        inner_steps=inner_steps,
        megabytes=_peak(kept, batch),
        megabytes_recomputed=_peak(again, batch),
        time_ratio=float(np.median([_seconds(again, batch) / _seconds(kept, batch) for _ in range(TURNS)])),
    )


def _seconds(gradient: Gradient, batch: Batch) -> float:
    began = time.perf_counter()
    gradient(batch)
    return time.perf_counter() - began


def _peak(gradient: Gradient, batch: Batch) -> float:
    """Return how many MB torch allocates and holds at once."""
    gradient(batch)
    os.environ["KINETO_LOG_LEVEL"] = "99"  # it is the profiler's, which otherwise tells the terminal when it begins
    with tempfile.TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            gradient(batch)
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    held = [event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]"]
    return max(held) / 1e6


if __name__ == "__main__":
    chosen = tyro.cli(Options, description=__doc__)
    (time_one_run if "RANK" in os.environ else main)(chosen)
