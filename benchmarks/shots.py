"""What the number of samples costs: adapt by the Gauss-Newton rule, from one sample to a thousand, in turns.

The network is that of the demo, K = 338, not trained: what a step costs does not depend on the numbers. The table has
each time over that of ten samples in the same run, the memory that a support set adds, and what both are to stay below.
"""

import os
import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypedDict

os.environ["OMP_NUM_THREADS"] = "1"  # read when the numeric libraries are loaded

import numpy as np
import torch
import tyro
from store import EXPORT, RUNTIME, Output, begin, keep, settled
from tables import shots as shots_lines
from terminal import print_lines

from msr_envs.registry import load_family
from msr_export import export_bundle
from msr_runtime import AdaptiveModel
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.cli.bench import in_turns
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import MSR
from msr_runtime.meta.training.normalization import measure_normalization
from msr_runtime.task import TaskFamily, sample_shape

SHOTS = (1, 10, 32, 64, 128, 256, 1024)
"""Numbers of support samples. They grow, so that each adds to the most memory so far."""
TEN = 10
"""The others are stated over this number."""
MOST_TIMES = {256: 6.0, 1024: 25.0}
"""What the median may be at most, over that of ten samples."""
MOST_BYTES = 100e6
"""What the memory may be at most, over that of ten samples."""


@dataclass(frozen=True)
class Options(Output):
    """What to measure."""

    width: int = 48
    """Units of each of the three hidden layers, and filter parameters of each tensor."""
    rounds: int = 50
    """Calls of adapt with each number of samples."""


STORED = {"shots": Options()}
"""The stored result, and what it measures."""


class Timing(TypedDict):
    """One number of samples."""

    shots: int
    p50_seconds: float
    best_seconds: float
    more_bytes: int
    """By how much the most memory of the process grew after the first adaptation to ten samples."""
    most_times: float | None
    """The bar of the median, over that of ten samples; None where there is none."""


def main(options: Options) -> None:
    """Measure and print."""
    options = settled(options, STORED)
    begun = begin(options, (*RUNTIME, *EXPORT, "msr_runtime/meta/rules", "benchmarks/shots.py"), seeds=(0,))
    torch.set_num_threads(1)
    family = load_family("ring-nav")
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: memory that it gave back would serve the adaptations, and hide what they need.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            out = pool.submit(export, Path(folder) / "bundle", options.width).result()
        model = AdaptiveModel.load(out)
    rows = measure(model, family, options.rounds)
    print_lines(shots_lines(rows), f"K = {model.manifest.filter_parameters}, two inner steps")
    print("\n".join(missed(rows)) or "all bars are held")
    keep(options, begun, rows)


def export(out: Path, width: int) -> Path:
    """Export a learner that was not trained."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    family = load_family("ring-nav")
    config = LearnerConfig(width=width, filters=width, rule="gauss-newton", inner_steps=2)
    learner = MSR(config, sample_shape(family.inputs), sample_shape(family.outputs), family.loss)
    normalization = measure_normalization(family, np.random.default_rng(0), None).normalization
    return export_bundle(
        learner,
        normalization,
        out,
        family=family,
        shots=TEN,
        seed=0,
        config_digest="",
        validation_tasks=1,
        structure=False,  # of a network that was not trained, nothing would be left
    )


def measure(model: AdaptiveModel, family: TaskFamily, rounds: int) -> list[Timing]:
    """Adapt to support sets of all sizes: once for the memory, then in turns for the times."""
    batch = family.sample(np.random.default_rng(0), 1, max(SHOTS), len(family.query_sets), "test")
    calls, most = {}, {}
    for count in SHOTS:
        support = batch.support_x[0, :count], batch.support_y[0, :count]
        calls[count] = partial(model.adapt, *support, guard=UNLIMITED)  # none is tried again without a sample
        calls[count]()
        most[count] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [
        Timing(
            shots=count,
            p50_seconds=float(np.median(times)),
            best_seconds=float(np.min(times)),
            more_bytes=max(0, most[count] - most[TEN]),
            most_times=MOST_TIMES.get(count),
        )
        for count, times in in_turns(calls, rounds, 1).items()
    ]


def missed(rows: list[Timing]) -> list[str]:
    """Say which bars are missed, one sentence each."""
    ten = next(row["p50_seconds"] for row in rows if row["shots"] == TEN)
    slow = [
        f"missed: {row['shots']:,} samples take {row['p50_seconds'] / ten:.1f} times ten samples' time, at most {bar:g}"
        for row in rows
        if (bar := row["most_times"]) is not None and row["p50_seconds"] > bar * ten
    ]
    large = [
        f"missed: {row['shots']:,} samples take {row['more_bytes'] / 1e6:.0f} MB more, at most {MOST_BYTES / 1e6:.0f}"
        for row in rows
        if row["more_bytes"] > MOST_BYTES
    ]
    return slow + large


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
