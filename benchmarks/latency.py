"""What the runtime costs: predict beside a bare session, adapt beside torch, JAX and copying the symmetry matrix.

All in one run, on one thread, taking turns. The networks are of ring-nav's shape with a dense and with a Kronecker U,
not trained: what a step costs does not depend on the numbers. Every contender has to give the same predictions after
the same adaptation before it is timed. JAX is a peer where it is installed: pip install ".[peers]".
"""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import TypedDict

os.environ["OMP_NUM_THREADS"] = "1"  # read when the numeric libraries are loaded
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import numpy as np
import onnx
import torch
import tyro
from peers import JaxPeer, TorchPeer
from store import EXPORT, RUNTIME, Output, begin, keep, settled
from tables import latency as latency_lines
from terminal import print_lines

from msr_envs.registry import load_family
from msr_export import export_bundle
from msr_runtime import AdaptiveModel
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.arrays import relative_error
from msr_runtime.cli.bench import in_turns
from msr_runtime.inference.session import make_session
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import MSR
from msr_runtime.meta.symmetry.reparameterize import Form
from msr_runtime.meta.training.normalization import measure_normalization
from msr_runtime.normalization import Normalization
from msr_runtime.task import sample_shape

STEPS = (1, 3, 5)
FORMS: tuple[Form, ...] = ("full", "kronecker")
SHOTS = 10


@dataclass(frozen=True)
class Options(Output):
    """What to measure."""

    depth: int = 3
    """Hidden layers."""
    width: int = 64
    """Units in each."""
    filters: int = 64
    """k, the filter parameters of each tensor with a dense U."""
    rounds: int = 2000
    """Calls of predict of each contender; adapt gets a fifth."""
    calls: int = 1
    """Calls in a row at each turn: from the second on, a contender finds its U in the caches, as one alone would."""
    compile: bool = True
    """Have torch.compile among the peers: it takes a minute to compile."""
    runs: int = 5
    """How many times all of it is measured; the table has the median and the range of the runs."""


STORED = {"latency": Options(), "latency-cached": Options(calls=20, runs=3)}
"""The stored results, and what each of them measures."""


class Timing(TypedDict):
    """One contender's times."""

    what: str
    who: str
    run: int
    p50_seconds: float
    p99_seconds: float


def main(options: Options) -> None:
    """Measure and print."""
    options = settled(options, STORED)
    roots = (*RUNTIME, *EXPORT, "benchmarks/latency.py", "benchmarks/peers.py")
    begun = begin(options, roots, seeds=(0,))
    # Each run in a process of its own: torch.compile keeps what it compiled, and gives up after eight variants.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        runs = pool.map(measure_once, range(options.runs), [options] * options.runs)
        rows = [row for run in runs for row in run]
    print_lines(latency_lines(rows), "median of a call over that of AdaptiveModel, and AdaptiveModel's own")
    keep(options, begun, rows)


def measure_once(run: int, options: Options) -> list[Timing]:
    """Measure all forms once."""
    torch.set_num_threads(1)
    return [row for form in FORMS for row in measure(form, run, options)]


def measure(form: Form, run: int, options: Options) -> list[Timing]:
    """Export one learner and time everybody on it."""
    family = load_family("ring-nav")
    # A low rate: an untrained network would diverge, and the export would refuse it. No time depends on the rate.
    config = LearnerConfig(
        depth=options.depth,
        width=options.width,
        filters=options.filters,
        form=form,
        rule="gradient",
        inner_steps=5,
        inner_rate=0.01,
    )
    rng = np.random.default_rng(0)
    learner, normalization, model = untrained(config, rng)
    batch = family.sample(rng, 1, SHOTS, 2 * len(family.query_sets), "test")
    support, x = (batch.support_x[0], batch.support_y[0]), batch.query_x[0, :1]
    model.adapt(*support, guard=UNLIMITED)  # the network is not trained, so that no limit says anything
    bare = make_session(_constant_weights(model), "predict", ("CPUExecutionProvider",))

    peers: dict[str, TorchPeer | JaxPeer] = {"torch eager": TorchPeer(learner, normalization, compiled=False)}
    if options.compile:
        peers["torch.compile"] = TorchPeer(learner, normalization, compiled=True)
    if find_spec("jax"):
        peers["JAX jit"] = JaxPeer(learner, normalization)
    for who, peer in peers.items():
        peer.adapt(*support, config.steps)
        if not (error := relative_error(peer.predict(x), model.predict(x))) < 1e-4:
            raise SystemExit(f"error: {who} predicts otherwise than the runtime: off by {error:.1e}")

    one = x[0]
    calls: dict[str, Callable[[], object]] = {
        "bare session": lambda: bare.run(None, {"x": x}),
        "AdaptiveModel": lambda: model.predict(one),
    }
    calls |= {who: partial(peer.predict, x) for who, peer in peers.items()}
    rows = compare(f"{form} U, predict", run, calls, options.rounds, options.calls)
    U = np.ones(_symmetry_bytes(learner) // 4, np.float32)
    copy = np.empty_like(U)

    def copy_symmetry(steps: int) -> None:
        # A step needs U twice, to pull the gradient back and to fold what moved: no order of work reads it once.
        # A copy moves as much: it reads every byte and writes every byte, as STREAM counts.
        for _ in range(steps):
            np.copyto(copy, U)

    for steps in STEPS:
        calls = {"AdaptiveModel": lambda steps=steps: model.adapt(*support, steps=steps, guard=UNLIMITED)}
        calls |= {who: partial(peer.adapt, *support, steps) for who, peer in peers.items()}
        calls["copying U"] = partial(copy_symmetry, steps)
        rows += compare(f"{form} U, adapt, steps: {steps}", run, calls, options.rounds // 5, options.calls)
    return rows


def untrained(config: LearnerConfig, rng: np.random.Generator) -> tuple[MSR, Normalization, AdaptiveModel]:
    """Make a learner of ring-nav's shape without training it; its normalization, and its bundle, loaded."""
    family = load_family("ring-nav")
    torch.manual_seed(0)
    learner = MSR(config, sample_shape(family.inputs), sample_shape(family.outputs), family.loss)
    with torch.no_grad():
        for parameter in learner.network.parameters():  # no two alike, as identities are, which are stored as one
            parameter += 0.01 * torch.randn_like(parameter)
    normalization = measure_normalization(family, rng, None).normalization
    with tempfile.TemporaryDirectory() as folder:
        out = export_bundle(
            learner,
            normalization,
            Path(folder) / "bundle",
            family=family,
            shots=SHOTS,
            seed=0,
            config_digest="",
            validation_tasks=1,
        )
        return learner, normalization, AdaptiveModel.load(out)


def compare(what: str, run: int, calls: dict[str, Callable[[], object]], rounds: int, in_a_row: int) -> list[Timing]:
    """Time the calls in turn, so that whatever else the machine does strikes all alike."""
    times = in_turns(calls, rounds // in_a_row, in_a_row)
    p50, p99 = np.percentile(np.stack([each.ravel() for each in times.values()], 1), (50, 99), axis=0)
    return [
        Timing(what=what, who=who, run=run, p50_seconds=float(half), p99_seconds=float(most))
        for who, half, most in zip(calls, p50, p99, strict=True)
    ]


def _symmetry_bytes(learner: MSR) -> int:
    """The size of every U, or of its Kronecker factors."""
    adapted = set(learner.adapted_names)
    return sum(p.nbytes for name, p in learner.network.named_parameters() if name not in adapted)


def _constant_weights(model: AdaptiveModel) -> bytes:
    """Take the weights off predict.onnx's inputs, so that ONNX Runtime may pre-pack them: the peer's best case."""
    graph = onnx.load_from_string(model.bundle.files["predict.onnx"])
    inputs = [each for each in graph.graph.input if each.name == "x"]
    del graph.graph.input[:]
    graph.graph.input.extend(inputs)
    return graph.SerializeToString()


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
