"""What a longer memory of a filter buys, and what it costs.

The covariance of the recursive rule is the prior's minus the rows of so many samples: diagonal plus low rank. A network
that `benchmarks/online.py` trained on ring-nav follows the same streams with memories of several lengths. Updates are
timed by exported bundles, one after another, each over a plain `predict` of the same bundle.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when the numeric libraries are loaded

import numpy as np
import torch
import tyro
from latency import compare
from online_learned import Filtered
from online_scores import LEVELS, certainty
from online_streams import Streams, simulated_streams
from store import EXPORT, RUNTIME, TRAINING, Output, begin, keep, settled
from tables.timed import filter_memory as lines
from terminal import print_lines

from msr_envs.registry import load_family
from msr_export import export_checkpoint
from msr_runtime import AdaptiveModel
from msr_runtime.meta.rules.recursive import Recursive
from msr_runtime.meta.training.checkpoint import Checkpoint, load_checkpoint

AFTER = (40, 200)
"""After how many samples a network is judged."""


@dataclass(frozen=True)
class Options(Output):
    """What to measure."""

    run: Path = field(default=Path("runs/online/ring-nav msr recursive 0"), metadata={"place": True})
    """A run with the rule `recursive` on ring-nav."""
    memories: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    """How many samples the covariance is made of."""
    streams: int = 60
    """Fresh tasks."""
    rounds: int = 1000
    """Timed updates and predictions of each bundle."""


STORED = {"filter-memory": Options()}
"""The stored result, and what it measures."""


def main(options: Options) -> None:
    """Follow the streams, time the bundles, and print."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    roots = (*TRAINING, *EXPORT, *RUNTIME, "benchmarks/filter_memory.py", "benchmarks/online_learned.py")
    begun = begin(options, roots, seeds=(0,))
    streams = simulated_streams("ring-nav", "stays", "test", options.streams, ticks=max(AFTER) + 1, queries=16)
    rows = []
    for memory in options.memories:
        checkpoint = load_checkpoint(options.run)
        assert isinstance(checkpoint.learner.rule, Recursive)
        checkpoint.learner.rule.memory = memory
        rows.append({"memory": memory, **judged(checkpoint, streams), **timed(checkpoint, streams, options.rounds)})
        print(f"measured a memory of {memory} samples", flush=True)
    print_lines(lines(rows), "by the length of the memory")
    keep(options, begun, rows)


def judged(checkpoint: Checkpoint, streams: Streams) -> dict[str, Any]:
    """Return the errors over the orbit, and how often 90 % intervals hold, after each number of samples."""
    method = Filtered(checkpoint, noise=1.0, ticks=np.inf)
    method.start(len(streams.x))
    figures: dict[str, Any] = {"orbit": {}, "hold": {}}
    for tick in range(max(AFTER) + 1):
        if tick in AFTER:
            error = method.predict(streams.query_x[:, tick]) - streams.query_y[:, tick]
            squares = np.sum((error / streams.half_range) ** 2, -1) / streams.size
            sure = certainty(error / np.sqrt(method.variance(streams.query_x[:, tick])))
            figures["orbit"][str(tick)] = float(squares.mean())
            figures["hold"][str(tick)] = sure["coverage"][LEVELS.index(0.9)]
        method.update(streams.x[:, tick], streams.y[:, tick])
    return figures


def timed(checkpoint: Checkpoint, streams: Streams, rounds: int) -> dict[str, float]:
    """Return the median times of an update and of a prediction once the memory is full, in s."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bundle"
        export_checkpoint(checkpoint, out, family=load_family("ring-nav"), validation_tasks=2)
        model = AdaptiveModel.load(out)
    x, y = streams.x[0], streams.y[0]
    for index in range(max(AFTER)):
        model.update(x[index], y[index])
    calls: dict[str, Callable[[], object]] = {
        "predict": lambda: model.predict(x[0]),
        "update": lambda: model.update(x[0], y[0]),
    }
    times = compare("", 0, calls, rounds, 1)
    return {f"{each['who']}_seconds": each["p50_seconds"] for each in times}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
