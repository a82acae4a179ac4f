"""What an NVIDIA GPU changes: the tests that need one, predict and adapt beside the CPU and torch, and training.

One run of a few minutes. Without a GPU it refuses to begin and says what is missing. It needs onnxruntime-gpu and a
torch that is built for CUDA: pip install ".[gpu,train,dev]". A GPU pays where much is computed at once: so predict is
timed for one sample and for a batch, and adapt on a small network and on a wide one.
"""

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from latency import NETWORKS, Network, Runtime, Timing, compare, draw_samples, make_learner, require_agreement
from peers import TorchPeer
from store import EXPORT, ROOT, RUNTIME, TRAINING, Output, begin, keep, settled
from tables import TABLES
from terminal import print_lines
from torch import Tensor

from msr_envs.registry import load_family
from msr_runtime import AdaptiveModel
from msr_runtime.errors import ProviderError
from msr_runtime.inference.device import CPU, CUDA, Provider
from msr_runtime.inference.providers import check_providers
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import MSR
from msr_runtime.meta.learners.prototypes import OrbitPrototypes
from msr_runtime.meta.training.mixed_precision import Precision
from msr_runtime.meta.training.outer import OuterLoss, traced_gradient
from msr_runtime.task import sample_shape


class Place(NamedTuple):
    """Where a contender computes."""

    device: str
    """As torch calls it."""
    providers: dict[str, Sequence[Provider]]
    """Of ONNX Runtime, by the name of the contender."""


GPU = Place(
    "cuda",
    {
        "AdaptiveModel, CUDA": (CUDA, CPU),
        "AdaptiveModel, CUDA graphs": ((CUDA, {"enable_cuda_graph": "1"}), CPU),
    },
)


@dataclass(frozen=True)
class Options(Output):
    """What to measure."""

    networks: tuple[str, ...] = ("full U", "256 wide")
    """Networks of latency.py."""
    compile: bool = True
    """Have torch.compile among the peers: it takes a minute to compile."""
    batch: int = 256
    """Samples of a large batch."""
    rounds: int = 1000
    """Calls of predict of each contender; adapt gets a tenth."""
    tasks: tuple[int, ...] = (16, 256)
    """Tasks of an outer step of training."""
    seconds: float = 5.0
    """How long outer steps of each kind are taken."""


STORED = {"gpu": Options()}
"""The stored result, and what it measures."""


def main(options: Options) -> None:
    """Measure and print."""
    options = settled(options, STORED)
    name = require_gpu()
    sources = (f"benchmarks/{name}.py" for name in ("gpu", "latency", "peers"))
    begun = begin(options, (*TRAINING, *RUNTIME, *EXPORT, *sources), seeds=(0,))
    begun["processor"] += f", {name}"
    rows: list[Any] = [run_tests()]
    for each in options.networks:
        rows += measure(each, NETWORKS[each], GPU, options)
    for work, tasks in product(WORK, options.tasks):
        rows += [training(work, tasks, device, options.seconds) for device in ("cpu", GPU.device)]
    rows += [training(FILTERS, tasks, GPU.device, options.seconds, "bfloat16") for tasks in options.tasks]
    for table in ("gpu", "gpu/training"):
        print_lines(TABLES[table].lines(rows), table)
    keep(options, begun, rows)


def require_gpu() -> str:
    """Return the name of the GPU, or refuse to begin where ONNX Runtime or torch cannot use one."""
    try:
        check_providers([CUDA])
    except ProviderError as error:
        raise SystemExit(f"error: there is nothing to measure without a GPU: {error}") from error
    if not torch.cuda.is_available():
        raise SystemExit(
            f"error: ONNX Runtime uses the GPU, but torch {torch.__version__} does not; install a torch that is built "
            "for CUDA"
        )
    return torch.cuda.get_device_name()


def run_tests() -> dict[str, int]:
    """Run the tests that are marked `gpu`, and count them. All of them must pass, and none may be skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "gpu",
            "-n",
            "0",
            f"--junit-xml={report}",
            "tests/runtime/inference",
        ]
        done = subprocess.run(command, cwd=ROOT, check=False)
        if not report.exists():
            raise SystemExit(f"error: the tests did not run: {' '.join(command)} ended with {done.returncode}")
        suite = ElementTree.parse(report).getroot()[0]
    ran, bad, skipped = (int(suite.get(key, 0)) for key in ("tests", "failures", "skipped"))
    bad += int(suite.get("errors", 0))
    if done.returncode or bad or skipped or not ran:
        raise SystemExit(f"error: of {ran} tests for the GPU, {bad} failed and {skipped} were skipped; see above")
    return {"tests": ran}


def measure(name: str, network: Network, place: Place, options: Options) -> list[Timing]:
    """Time a network on one thread of the CPU and at another place, one sample and many."""
    torch.set_num_threads(1)
    learner, normalization, model = make_learner(network)
    x, y, one = draw_samples(network)
    contenders: dict[str, Any] = {"AdaptiveModel": Runtime(model)}
    contenders |= {
        who: Runtime(AdaptiveModel.load(model.bundle, providers)) for who, providers in place.providers.items()
    }
    contenders["torch eager"] = TorchPeer(learner, normalization, compiled=False, device=place.device)
    if options.compile:
        contenders["torch.compile"] = TorchPeer(learner, normalization, compiled=True, device=place.device)
    require_agreement(contenders, (x, y), one, network.steps)
    many = np.repeat(one, options.batch, 0)
    rows = []
    for samples in (one, many):
        calls: dict[str, Callable[[], object]] = {
            who: partial(each.predict, samples) for who, each in contenders.items()
        }
        rows += compare(f"{name}, predict, samples: {len(samples)}", 0, calls, options.rounds, 1)
    for steps in network.steps:
        # The peers' weights stay on the device, and a call is over when they are there.
        calls = {who: partial(_adapted, each, (x, y), steps, place.device) for who, each in contenders.items()}
        rows += compare(f"{name}, adapt, steps: {steps}", 0, calls, options.rounds // 10, 1)
    return rows


def _adapted(contender: Any, support: tuple[Any, Any], steps: int, device: str) -> None:
    contender.adapt(*support, steps)
    if device == "cuda":
        torch.cuda.synchronize()


def _ring_nav(tasks: int) -> tuple[Learner, list[Tensor]]:
    """MSR on ring-nav, by five gradient steps."""
    family = load_family("ring-nav")
    config = LearnerConfig(rule="gradient", inner_steps=5, inner_rate=0.01)
    learner = MSR(config, sample_shape(family.inputs), sample_shape(family.outputs), family.loss)
    drawn = family.sample(np.random.default_rng(0), tasks, 10, 16, "train")
    return learner, [torch.from_numpy(each) for each in drawn]


def _images(tasks: int) -> tuple[Learner, list[Tensor]]:
    """Filters that hold both flips, on five classes of images by one sample each."""
    config = LearnerConfig(network="conv-grid", depth=4, grid_group="D2")
    learner = OrbitPrototypes(config, (1, 28, 28), (5,), "cross_entropy")
    labels = torch.arange(5).expand(tasks, -1).contiguous()
    return learner, [torch.rand(tasks, 5, 1, 28, 28), labels, torch.rand(tasks, 5, 1, 28, 28), labels]


FILTERS = "prototypes on images"
WORK = {"msr on ring-nav": _ring_nav, FILTERS: _images}
"""What is trained: a function of the number of tasks that returns a learner and a batch."""


def training(work: str, tasks: int, device: str, seconds: float, precision: Precision = "float32") -> dict[str, Any]:
    """Take outer steps on one device, the CPU with all its cores: the gradient, and a step of Adam."""
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    learner, batch = WORK[work](tasks)
    learner, batch = learner.to(device), [part.to(device) for part in batch]
    gradient = traced_gradient(OuterLoss(learner, precision=precision).train(), batch)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-4)

    def step() -> None:
        _, gradients = gradient(batch)
        for name, parameter in learner.named_parameters():
            parameter.grad = gradients.get(f"learner.{name}")
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    count, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        step()
        count += 1
    where = device if precision == "float32" else f"{device}, {precision}"
    return {"work": work, "tasks": tasks, "device": where, "tasks_per_second": count * tasks / taken}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
