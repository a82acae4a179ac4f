"""What learning from one sample costs: `update` and `predict(std=True)` by both engines, beside torch and JAX.

All in one run, on one thread, taking turns, with a network of ring-nav's shape that is not trained: what an update
costs does not depend on the numbers. Every contender has to give the same predictions after the same samples before it
is timed. The memory of rows is full. JAX is a peer where it is installed (`make peers`).

Then one model learns from many samples. What its rows take of the prior's variance must never exceed 1: the covariance
would have a negative eigenvalue.
"""

import os
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when the numeric libraries are loaded
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import numpy as np
import torch
import tyro
from filter_peers import JaxFilter, TorchFilter
from latency import Timing, compare, compiled, untrained
from numpy.typing import NDArray
from store import EXPORT, IN_C, RUNTIME, Output, begin, keep, settled
from tables.timed import updates as update_lines
from tables.timed import updates_endless
from terminal import print_lines

from msr_envs.registry import load_family
from msr_runtime import AdaptiveModel
from msr_runtime.arrays import relative_error
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import MSR
from msr_runtime.normalization import Normalization
from msr_runtime.task import sample_shape

SAMPLES = 4096
"""Different samples, which come again and again."""


@dataclass(frozen=True)
class Options(Output):
    """What to measure."""

    depth: int = 3
    """Hidden layers."""
    width: int = 48
    """Units in each."""
    filters: int = 48
    """k, the filter parameters of each tensor."""
    rounds: int = 1000
    """Calls of each contender."""
    compile: bool = True
    """Have torch.compile among the peers: it takes a minute to compile."""
    runs: int = 3
    """How many times all of it is measured; the table has the median and the range of the runs."""
    endless: int = 1_000_000
    """Updates of the model that never stops."""


STORED = {"updates": Options()}
"""The stored result, and what it measures."""


def main(options: Options) -> None:
    """Measure and print."""
    options = settled(options, STORED)
    sources = (f"benchmarks/{name}.py" for name in ("updates", "filter_peers", "peers", "latency", "native"))
    roots = (*RUNTIME, *EXPORT, *IN_C, *sources)
    begun = begin(options, roots, seeds=(0,))
    # Each run in a process of its own: torch.compile keeps what it compiled.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        rows: list[Any] = [
            row for run in pool.map(measure, range(options.runs), [options] * options.runs) for row in run
        ]
        rows += pool.submit(endless, options).result()
    print_lines(update_lines(rows), "median of a call over that of predict")
    print_lines(updates_endless(rows), "one model that never stops")
    keep(options, begun, rows)


def measure(run: int, options: Options) -> list[Timing]:
    """Time everybody once."""
    torch.set_num_threads(1)
    learner, normalization, model = _network(options)
    native = compiled(model)
    x, y = _samples(model)
    peers: dict[str, TorchFilter | JaxFilter] = {"torch eager": TorchFilter(learner, normalization, compiled=False)}
    if options.compile:
        peers["torch.compile"] = TorchFilter(learner, normalization, compiled=True)
    if find_spec("jax"):
        peers["JAX jit"] = JaxFilter(learner, normalization)
    filled = 2 * model.manifest.recursion.memory if model.manifest.recursion else 0
    for each in (model, native, *peers.values()):
        for index in range(filled):
            each.update(x[index], y[index])
    for who, peer in {"native": native, **peers}.items():
        if not (error := relative_error(peer.predict(x[:1]), model.predict(x[:1]))) < 1e-3:
            raise SystemExit(f"error: {who} predicts otherwise than the runtime: off by {error:.1e}")
    one_x, one_y = x[0], y[0]
    calls: dict[str, Callable[[], object]] = {
        "predict": lambda: model.predict(one_x),
        "predict, std": lambda: model.predict(one_x, std=True),
        "AdaptiveModel": lambda: model.update(one_x, one_y),
        "predict, native": lambda: native.predict(one_x),
        "predict, std, native": lambda: native.predict(one_x, std=True),
        "native": lambda: native.update(one_x, one_y),
    }
    calls |= {who: partial(peer.update, one_x, one_y) for who, peer in peers.items()}
    numbers = len(model.v.ravel())
    return compare(f"{numbers} numbers adapt, {len(one_y)} outputs", run, calls, options.rounds, 1)


def endless(options: Options) -> list[dict[str, Any]]:
    """Let one model learn from many samples; one row per tenfold number of them."""
    _, _, model = _network(options)
    x, y = _samples(model)
    rows, squares, due = [], 0.0, 1000
    for index in range(options.endless):
        result = model.update(x[index % SAMPLES], y[index % SAMPLES])
        if not result.accepted:
            raise SystemExit(f"error: update {index} was refused: {result.reason}")
        squares += result.nis
        if index + 1 == min(due, options.endless):
            belief = model._acting.belief  # nobody but this script asks for the whole covariance
            assert belief is not None
            spread = np.linalg.eigvalsh(belief.covariance())
            rows.append(
                {
                    "updates": index + 1,
                    "smallest_variance": float(spread[0]),
                    "largest_variance": float(spread[-1]),
                    "mean_nis": squares / (index + 1) / y.shape[1],
                    "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                }
            )
            due *= 10
    return rows


def _network(options: Options) -> tuple[MSR, Normalization, AdaptiveModel]:
    """A learner with the rule `recursive`, and its bundle, loaded. No sample is linearized again, as by the peers."""
    depth, width, filters = options.depth, options.width, options.filters
    config = LearnerConfig(depth=depth, width=width, filters=filters, rule="recursive", relinearize=0)
    return untrained(config, np.random.default_rng(0))


def _samples(model: AdaptiveModel) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Samples of one task: x and y `(SAMPLES, ...)`, raw units."""
    batch = load_family("ring-nav").sample(np.random.default_rng(1), 1, SAMPLES, 2, "test")
    assert batch.support_x.shape[2:] == sample_shape(model.manifest.inputs)
    return batch.support_x[0], batch.support_y[0]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
