"""What the runtime costs: predict and adapt, beside the same network in torch, JAX, LiteRT and IREE.

All in one run, on one thread, taking turns. The networks are not trained: what a step costs does not depend on the
numbers. U is rounded to float16 first, as bundles store it, so that all hold the same float32 weights. Every contender
has to give the same predictions after the same adaptation before it is timed. `make peers` installs the peers.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

os.environ["OMP_NUM_THREADS"] = "1"  # read when the numeric libraries are loaded
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import numpy as np
import onnx
import torch
import tyro
from compiled_peers import IREEPeer, LiteRTPeer
from native import compile_native
from numpy.typing import NDArray
from peers import JaxPeer, TorchPeer
from store import EXPORT, IN_C, RUNTIME, Output, begin, keep, settled
from tables import latency as latency_lines
from terminal import print_lines

from msr_envs.registry import load_family
from msr_export import export_bundle
from msr_export.rounding import rounded
from msr_runtime import AdaptiveModel
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.arrays import relative_error
from msr_runtime.bundle.store import write_bundle
from msr_runtime.cli.bench import in_turns
from msr_runtime.inference.session import make_session
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import MSR
from msr_runtime.meta.symmetry.reparameterize import Form
from msr_runtime.meta.training.normalization import measure_normalization
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array, sample_shape

SHOTS = 10
STARTS = 5
"""Processes of each engine in a run that import the runtime and load the bundle."""
ENGINES = {"AdaptiveModel": "onnx", "native": "native"}
"""Engines of the runtime, by their contenders."""
Optional = Literal["native", "torch.compile", "JAX jit", "LiteRT", "IREE"]
"""The contenders that can be left out."""
NEEDS: dict[Optional, tuple[str, ...]] = {
    "JAX jit": ("jax",),
    "LiteRT": ("jax", "ai_edge_litert", "litert_converter"),
    "IREE": ("jax", "iree"),
}
"""The packages that they need, by the names of their imports."""


class Network(NamedTuple):
    """What adapts: an MLP of three hidden layers."""

    family: str = "ring-nav"
    """Whose x and y it has."""
    width: int = 64
    """Units in each hidden layer."""
    filters: int = 64
    """k, the filter parameters of each tensor with a full U."""
    form: Form = "full"
    rule: Literal["gradient", "gauss-newton"] = "gradient"
    steps: tuple[int, ...] = (1, 3, 5)
    """Inner steps that are timed."""


NETWORKS = {
    "full U": Network(),
    "kronecker U": Network(form="kronecker"),
    "Gauss-Newton": Network(rule="gauss-newton", steps=(1, 2, 5)),
    "hex-drive": Network(family="hex-drive"),
    "256 wide": Network(width=256),
    "8 columns": Network(filters=8),
    "Gauss-Newton, 8 columns": Network(filters=8, rule="gauss-newton", steps=(1, 2, 5)),
}
"""The networks, by what the table calls them."""


@dataclass(frozen=True)
class Options(Output):
    """What to measure."""

    networks: tuple[str, ...] = tuple(NETWORKS)
    """The networks."""
    without: tuple[Optional, ...] = ()
    """Contenders to leave out, for example because they are not installed."""
    rounds: int = 2000
    """Calls of predict of each contender; adapt gets a tenth."""
    calls: int = 1
    """Calls in a row at each turn: from the second on, a contender finds its U in the caches, as one alone would."""
    runs: int = 3
    """How many times all of it is measured; the table has the median and the range of the runs."""


STORED = {"latency": Options(), "latency-cached": Options(calls=20)}
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
    require_peers(options.without)
    if unknown := [name for name in options.networks if name not in NETWORKS]:
        raise SystemExit(f"error: --networks names '{unknown[0]}', but there are {', '.join(NETWORKS)}")
    sources = (f"benchmarks/{name}.py" for name in ("latency", "native", "peers", "compiled_peers"))
    begun = begin(options, (*RUNTIME, *EXPORT, *IN_C, *sources), seeds=(0,))
    # Each run in a process of its own: torch.compile keeps what it compiled, and gives up after eight variants.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        jobs = [(name, run) for run in range(options.runs) for name in options.networks]
        rows = [row for made in pool.map(measure, *zip(*jobs, strict=True), [options] * len(jobs)) for row in made]
    print_lines(latency_lines(rows), "median of a call over that of AdaptiveModel, and AdaptiveModel's own")
    keep(options, begun, rows)


def require_peers(without: tuple[str, ...]) -> None:
    """Refuse to begin where a contender that is not left out cannot run."""
    for who, modules in NEEDS.items():
        if who not in without and (missing := [module for module in modules if not find_spec(module)]):
            raise SystemExit(
                f"error: {who} is among the contenders, but '{missing[0]}' is not installed; install the peers "
                f"(make peers), or leave it out (--without '{who}')"
            )
    if "native" not in without and not shutil.which("cc"):
        raise SystemExit(
            "error: native is among the contenders, but there is no C compiler 'cc'; install one (Debian: apt install "
            "gcc), or leave it out (--without native)"
        )


def measure(name: str, run: int, options: Options) -> list[Timing]:
    """Export one learner and time everybody on it."""
    torch.set_num_threads(1)
    network = NETWORKS[name]
    learner, normalization, model = make_learner(network)
    x, y, one = draw_samples(network)
    contenders = make_contenders(learner, normalization, model, (x, y), options.without)
    require_agreement(contenders, (x, y), one, network.steps)
    bare = make_session(_constant_weights(model), "predict", ("CPUExecutionProvider",))
    feed = {"x": one}

    calls: dict[str, Callable[[], object]] = {"bare session": lambda: bare.run(None, feed)}
    calls |= {who: partial(each.predict, one) for who, each in contenders.items()}
    rows = compare(f"{name}, predict", run, calls, options.rounds, options.calls)
    U = np.ones(_symmetry_bytes(learner) // 4, np.float32)
    copy = np.empty_like(U)

    def copy_symmetry(steps: int) -> None:
        # A step needs U twice, to pull the gradient back and to fold what moved: no order of work reads it once.
        # A copy moves as much: it reads every byte and writes every byte, as STREAM counts.
        for _ in range(steps):
            np.copyto(copy, U)

    for steps in network.steps:
        calls = {who: partial(each.adapt, x, y, steps) for who, each in contenders.items()}
        calls["copying U"] = partial(copy_symmetry, steps)
        rows += compare(f"{name}, adapt, steps: {steps}", run, calls, options.rounds // 10, options.calls)
    engines = {who: engine for who, engine in ENGINES.items() if who not in options.without}
    with written(model, native="native" in engines) as path:
        starts = {who: partial(start_seconds, path, engine) for who, engine in engines.items()}
        taken = [{who: start() for who, start in starts.items()} for _ in range(STARTS)]
    return rows + [_timing(f"{name}, import and load", who, run, [each[who] for each in taken]) for who in engines]


class Runtime:
    """AdaptiveModel as a contender. The network is not trained, so that no limit of an update says anything."""

    def __init__(self, model: AdaptiveModel) -> None:
        self._model = model

    def adapt(self, support_x: Array, support_y: Array, steps: int) -> None:
        """Adapt from v0 on the support `(shots, x)`, `(shots, y)`."""
        self._model.adapt(support_x, support_y, steps, guard=UNLIMITED)

    def predict(self, x: Array) -> Array:
        """Map `(1, x)` to `(1, y)`."""
        return self._model.predict(x)


def make_learner(network: Network) -> tuple[MSR, Normalization, AdaptiveModel]:
    """Make a network's learner and export it, see `untrained`."""
    # A low rate: an untrained network would diverge, and the export would refuse it. No time depends on the rate.
    config = LearnerConfig(
        width=network.width,
        filters=network.filters,
        form=network.form,
        rule=network.rule,
        inner_steps=max(network.steps),
        inner_rate=0.01,
    )
    return untrained(config, np.random.default_rng(0), network.family)


def draw_samples(network: Network) -> tuple[Array, Array, Array]:
    """Draw a support set x `(shots, x)`, y `(shots, y)` and one query x `(1, x)`, in raw units."""
    family = load_family(network.family)
    batch = family.sample(np.random.default_rng(0), 1, SHOTS, 2 * len(family.query_sets), "test")
    return batch.support_x[0], batch.support_y[0], batch.query_x[0, :1]


def make_contenders(
    learner: Learner,
    normalization: Normalization,
    model: AdaptiveModel,
    support: tuple[Array, Array],
    without: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Make everybody who can adapt, by name: what has `adapt(x, y, steps)` and `predict(x)`."""
    makers: dict[str, Callable[[], Any]] = {
        "AdaptiveModel": lambda: Runtime(model),
        "native": lambda: Runtime(compiled(model)),
        "torch eager": lambda: TorchPeer(learner, normalization, compiled=False),
        "torch.compile": lambda: TorchPeer(learner, normalization, compiled=True),
        "JAX jit": lambda: JaxPeer(learner, normalization),
        "LiteRT": lambda: LiteRTPeer(learner, normalization, *support),
        "IREE": lambda: IREEPeer(learner, normalization, *support),
    }
    return {who: make() for who, make in makers.items() if who not in without}


def require_agreement(
    contenders: dict[str, Any], support: tuple[Array, Array], x: Array, steps: tuple[int, ...]
) -> None:
    """Refuse to time a contender that predicts otherwise than the runtime after the same adaptation."""
    for count in steps:
        for each in contenders.values():
            each.adapt(*support, count)
        wanted = contenders["AdaptiveModel"].predict(x)
        for who, each in contenders.items():
            if not (error := relative_error(each.predict(x), wanted)) < 1e-4:
                raise SystemExit(f"error: {who} predicts otherwise than the runtime: off by {error:.1e}")


@contextlib.contextmanager
def written(model: AdaptiveModel, *, native: bool) -> Iterator[Path]:
    """Write a model's bundle to a folder, until the block ends; with its native code, as `msr compile` adds it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        write_bundle(path, model.manifest, model.bundle.files)
        if native:
            compile_native(path)
        yield path


def compiled(model: AdaptiveModel) -> AdaptiveModel:
    """Return a model of the same bundle that runs its native code."""
    with written(model, native=True) as path:
        return AdaptiveModel.load(path, engine="native")


def start_seconds(bundle: Path, engine: str) -> float:
    """Import the runtime and load a bundle in a process of its own, as a robot does when it starts: the time, in s.

    The start of Python itself does not count. Nor does compiling the source of this project: pip does that once.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    program = (
        "import sys, time; began = time.perf_counter(); from msr_runtime import AdaptiveModel; "
        "AdaptiveModel.load(sys.argv[1], engine=sys.argv[2]); print(time.perf_counter() - began)"
    )
    command = [sys.executable, "-c", program, bundle, engine]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)


def untrained(
    config: LearnerConfig, rng: np.random.Generator, family_name: str = "ring-nav"
) -> tuple[MSR, Normalization, AdaptiveModel]:
    """Make a learner of a family's shape without training it; its normalization, and its bundle, loaded.

    What does not adapt is rounded to float16, and stored so in the bundle.
    """
    family = load_family(family_name)
    torch.manual_seed(0)
    learner = MSR(config, sample_shape(family.inputs), sample_shape(family.outputs), family.loss)
    with torch.no_grad():
        for parameter in learner.network.parameters():  # no two alike, as identities are, which are stored as one
            parameter += 0.01 * torch.randn_like(parameter)
    learner, _ = rounded(learner, "float16")
    assert isinstance(learner, MSR)
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
            precision="float16",
            structure=False,  # of a network that was not trained, nothing would be left
        )
        return learner, normalization, AdaptiveModel.load(out)


def compare(what: str, run: int, calls: dict[str, Callable[[], object]], rounds: int, in_a_row: int) -> list[Timing]:
    """Time the calls in turn, so that whatever else the machine does strikes all alike."""
    times = in_turns(calls, rounds // in_a_row, in_a_row)
    return [_timing(what, who, run, each.ravel()) for who, each in times.items()]


def _timing(what: str, who: str, run: int, seconds: list[float] | NDArray[np.float64]) -> Timing:
    half, most = np.percentile(seconds, (50, 99))
    return Timing(what=what, who=who, run=run, p50_seconds=float(half), p99_seconds=float(most))


def _symmetry_bytes(learner: Learner) -> int:
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
