"""What the number of samples costs: adapt by the Gauss-Newton rule, from one sample to a thousand, in turns.

The network is that of the demo, K = 338, not trained: what a step costs does not depend on the numbers. The table has
each time over that of ten samples in the same run, and the memory that the largest support set adds.
"""

import os
import resource
import tempfile
from dataclasses import dataclass
from functools import partial
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
from msr_runtime.cli.bench import in_turns
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import MSR
from msr_runtime.meta.training.normalization import measure_normalization
from msr_runtime.task import sample_shape

SHOTS = (10, 1, 32, 64, 128, 256, 1024)
"""Numbers of support samples. Ten come first: the others are stated over them."""


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
    """Memory that the process grew by at its first adaptation to so many samples."""


def main(options: Options) -> None:
    """Measure and print."""
    options = settled(options, STORED)
    begun = begin(options, (*RUNTIME, *EXPORT, "msr_runtime/meta/rules", "benchmarks/shots.py"), seeds=(0,))
    torch.set_num_threads(1)
    family, rng = load_family("ring-nav"), np.random.default_rng(0)
    torch.manual_seed(0)
    config = LearnerConfig(width=options.width, filters=options.width, rule="gauss-newton", inner_steps=2)
    learner = MSR(config, sample_shape(family.inputs), sample_shape(family.outputs), family.loss)
    normalization = measure_normalization(family, rng, None).normalization
    with tempfile.TemporaryDirectory() as folder:
        out = export_bundle(
            learner, normalization, Path(folder) / "bundle", family=family, shots=10, seed=0, config_digest=""
        )
        model = AdaptiveModel.load(out)
    batch = family.sample(rng, 1, max(SHOTS), len(family.query_sets), "test")
    calls, grown = {}, {}
    for count in SHOTS:
        support = batch.support_x[0, :count], batch.support_y[0, :count]
        calls[str(count)] = partial(model.adapt, *support)
        before = _peak()
        model.adapt(*support)
        grown[str(count)] = _peak() - before
    rows = [
        Timing(
            shots=int(count),
            p50_seconds=float(np.median(times)),
            best_seconds=float(np.min(times)),
            more_bytes=grown[count],
        )
        for count, times in in_turns(calls, options.rounds, 1).items()
    ]
    print_lines(shots_lines(rows), f"K = {model.manifest.filter_parameters}, two inner steps")
    keep(options, begun, rows)


def _peak() -> int:
    """The most memory that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
