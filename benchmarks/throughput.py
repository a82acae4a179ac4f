"""Outer steps a second on one thread: ours, traced, beside one task after another in Python, as `higher` has it.

Each step is one outer gradient and one step of Adam on the same tasks from the same start. Before anything is timed,
all contenders' gradients are compared in float64. The loop is written here, on `torch.func.functional_call`; `higher`
itself runs as well where it is installed (`pip install higher`). On `conv-c8` ours is timed twice: on the images, and
on their sufficient statistics (`conv-c8-compressed`), which give the same gradients.
"""

import copy
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
import torch
import tyro
from store import TRAINING, Output, begin, keep, settled
from tables import throughput as throughput_lines
from terminal import print_lines
from torch import Tensor, nn
from torch.func import functional_call

from msr_envs.synthetic.compressed import Compressed
from msr_envs.synthetic.one_dimension import RANK1
from msr_envs.synthetic.two_dimensions import CONV_C8
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import MAML, MSR
from msr_runtime.meta.rules.gradient import GradientSteps
from msr_runtime.meta.rules.rule import LOSSES, Tensors
from msr_runtime.meta.training.outer import Batch, OuterLoss, damp_large, traced_gradient
from msr_runtime.task import TaskFamily, sample_shape

Differentiate = Callable[[Batch], tuple[Tensor, Tensors]]
"""A batch to the outer loss and its gradient by parameter name."""
TASKS, CHECKED = 32, 4
"""Tasks in an outer step, and those that gradients are compared on."""
TOLERANCE = 1e-6
"""How far gradients may differ, relative, in float64; the statistics themselves are stored in float32."""


@dataclass(frozen=True)
class Options(Output):
    """What to measure."""

    problems: tuple[str, ...] = ("rank1", "conv-c8", "conv-4")
    """The problems."""
    repetitions: int = 7
    """Turns of each contender, one after the other's."""
    seconds: float = 1.0
    """How long a turn takes at least; it is one step at least."""


STORED = {"throughput": Options()}
"""The stored result, and what it measures."""


class Timed(TypedDict):
    """One contender on one problem."""

    problem: str
    contender: str
    steps_per_second: float
    """The median over the turns, 32 tasks a step."""
    ratio: float
    """To the loop: the median over the turns."""
    difference: float
    """Of the outer gradient to the loop's, the largest over the parameters, relative, in float64."""


class Contender(NamedTuple):
    """One way to compute a problem's outer gradient."""

    name: str
    learner: Learner
    batch: Batch
    gradient: Callable[[Learner, Batch], Differentiate]
    """Makes the gradient, for batches of that shape."""
    renamed: tuple[str, str] = ("", "")
    """How the end of a parameter's name is written here, and by the others."""


def main(options: Options) -> None:
    """Compare, measure and print."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    begun = begin(options, (*TRAINING, "benchmarks/throughput.py"), seeds=(0,))
    rows = [row for name in options.problems for row in _measure(name, options)]
    print_lines(throughput_lines(rows), "outer steps of 32 tasks, one thread")
    keep(options, begun, rows)


def _measure(problem: str, options: Options) -> list[Timed]:
    differences = _differences(PROBLEMS[problem](CHECKED))
    steps = {contender.name: _step(contender) for contender in PROBLEMS[problem](TASKS)}
    speeds = {name: [] for name in steps}
    for _ in range(options.repetitions):
        for name, step in steps.items():
            speeds[name].append(_speed(step, options.seconds))
    return [
        Timed(
            problem=problem,
            contender=name,
            steps_per_second=float(np.median(speeds[name])),
            ratio=float(np.median(np.divide(speeds[name], speeds["loop"]))),
            difference=differences[name],
        )
        for name in steps
    ]


def _differences(contenders: Iterable[Contender]) -> dict[str, float]:
    """Compare every outer gradient with the loop's; nothing that computes something else is timed."""
    differences, wanted = {}, {}
    for contender in contenders:
        learner = copy.deepcopy(contender.learner).double()
        batch = [part.double() if part.is_floating_point() else part for part in contender.batch]
        here, there = contender.renamed
        gradients = contender.gradient(learner, batch)(batch)[1]
        found = {name.removesuffix(here) + there * name.endswith(here): g.flatten() for name, g in gradients.items()}
        wanted = wanted or found
        shared = wanted.keys() & found.keys()
        norm = torch.linalg.vector_norm
        differences[contender.name] = max(float(norm(found[n] - wanted[n]) / norm(wanted[n])) for n in shared)
        if not differences[contender.name] <= TOLERANCE:
            raise SystemExit(f"{contender.name} differs from the loop by {differences[contender.name]:.1e}")
    return differences


def _step(contender: Contender) -> Callable[[], None]:
    """Return an outer step: the gradient, and Adam."""
    learner = copy.deepcopy(contender.learner)
    gradient = contender.gradient(learner, contender.batch)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-4)

    def step() -> None:
        _, gradients = gradient(contender.batch)
        for name, parameter in learner.named_parameters():
            parameter.grad = gradients.get(f"learner.{name}")
        optimizer.step()

    step()
    return step


def _speed(step: Callable[[], None], seconds: float) -> float:
    count, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        step()
        count += 1
    return count / taken


def rank1(tasks: int) -> Iterator[Contender]:
    """The paper's MSR-FC on rank 1: one fully connected layer of 70 to 68, k = 3, one gradient step."""
    config = LearnerConfig(depth=0, bias=False, filters=3, rule="gradient", inner_steps=1, inner_rate=3.0)
    learner, batch = _learner(MSR, config, RANK1), _batch(RANK1, tasks)
    yield from _on(learner, batch)


def conv_c8(tasks: int) -> Iterator[Contender]:
    """The paper's MSR-Conv on images of 32 x 32: one convolution to 24 channels, Kronecker factors that are square."""
    steps = {"rule": "gradient", "inner_steps": 1, "inner_rate": 3.0}
    config = LearnerConfig.model_validate({"network": "conv", "depth": 0, "bias": False, "form": "kronecker"} | steps)
    compressed = Compressed(CONV_C8, kernel=3, at_once=tasks)
    convolution, linear = _learner(MSR, config, CONV_C8), _learner(MSR, _mlp(config), compressed)
    # of one input channel a bank is a matrix, and the factor on its taps that on the matrix's columns
    weight = "network.layers.0.parametrizations.weight"
    with torch.no_grad():
        linear.get_parameter(f"{weight}.original").copy_(convolution.get_parameter(f"{weight}.original").flatten(1))
    yield from _on(convolution, _batch(CONV_C8, tasks))
    yield Contender("ours, statistics", linear, _batch(compressed, tasks), _traced, (".0.B", ".0.C"))


def conv_4(tasks: int) -> Iterator[Contender]:
    """The Conv-4 of few-shot learning: MAML on four convolutions of 32 channels, 28 x 28, 5 ways, 1 shot, 3 steps.

    The images are noise: the time does not depend on them.
    """
    config = LearnerConfig(network="conv", depth=4, width=32, inner_steps=3, inner_rate=0.05)
    torch.manual_seed(0)
    learner, rng = MAML(config, (1, 28, 28), (5,), "cross_entropy"), np.random.default_rng(0)
    batch = []
    for samples in (5, 25):
        images = rng.standard_normal((tasks, samples, 1, 28, 28), np.float32)
        labels = np.tile(np.arange(samples) % 5, (tasks, 1))
        batch += [torch.from_numpy(images), torch.from_numpy(labels)]
    yield from _on(learner, batch)


def _on(learner: Learner, batch: Batch) -> Iterator[Contender]:
    yield Contender("loop", learner, batch, looped)
    if importlib.util.find_spec("higher"):
        yield Contender("higher", learner, batch, on_higher)
    yield Contender("ours", learner, batch, _traced)


def _traced(learner: Learner, batch: Batch) -> Differentiate:
    return traced_gradient(OuterLoss(learner), batch)


def looped(learner: Learner, batch: Batch) -> Differentiate:  # noqa: ARG001
    """One task after another: fast weights, gradients that are differentiated again, and their sum in `.grad`."""
    rule, loss = _gradient_steps(learner), LOSSES[learner.loss]

    def gradient(batch: Batch) -> tuple[Tensor, Tensors]:
        learner.zero_grad()
        losses = []
        for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
            fast = learner.start()
            for index in range(rule.steps):
                support_loss = loss(functional_call(learner.network, fast, (support_x,)), support_y)
                gradients = torch.autograd.grad(support_loss, list(fast.values()), create_graph=True)
                rates = rule.rates(index)
                fast = {n: p - rates[n] * g for (n, p), g in zip(fast.items(), gradients, strict=True)}
            query_loss = loss(functional_call(learner.network, fast, (query_x,)), query_y)
            task_loss = damp_large(query_loss) / len(batch[0])
            task_loss.backward()
            losses.append(task_loss.detach())
        return torch.stack(losses).sum(), _gradients(learner)

    return gradient


def on_higher(learner: Learner, batch: Batch) -> Differentiate:  # noqa: ARG001
    """The same on `higher`'s functional copy of the network and its differentiable SGD."""
    higher = importlib.import_module("higher")

    rule, loss, network = _gradient_steps(learner), LOSSES[learner.loss], _written_out(learner)
    optimizer = torch.optim.SGD([{"params": [tensor]} for tensor in learner.start().values()], lr=1.0)

    def gradient(batch: Batch) -> tuple[Tensor, Tensors]:
        learner.zero_grad()
        losses = []
        for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
            rates = {"lr": list(rule.rates(0).values())}
            with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False, override=rates) as (fast, inner):
                for _ in range(rule.steps):
                    inner.step(loss(fast(support_x), support_y))
                task_loss = damp_large(loss(fast(query_x), query_y)) / len(batch[0])
                task_loss.backward()
            losses.append(task_loss.detach())
        return torch.stack(losses).sum(), _gradients(learner)

    return gradient


def _written_out(learner: Learner) -> nn.Module:
    """The learner's network on its own parameters, without what `higher` cannot follow: parametrizations, slices."""
    layers = list(learner.network.get_submodule("layers").children())
    if learner.config.reparameterized:
        return _Layer(layers[0])
    *hidden, last = layers
    return nn.Sequential(*(part for layer in hidden for part in (layer, nn.SiLU())), nn.Flatten(), last)


class _Layer(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.symmetry = layer.get_submodule("parametrizations.weight.0")
        self.v = layer.get_parameter("parametrizations.weight.original")
        self.convolves = isinstance(layer, nn.Conv2d)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.symmetry(self.v)
        return nn.functional.conv2d(x, weight) if self.convolves else nn.functional.linear(x, weight)


def _gradient_steps(learner: Learner) -> GradientSteps:
    assert isinstance(learner.rule, GradientSteps)
    return learner.rule


def _gradients(learner: Learner) -> Tensors:
    return {f"learner.{name}": p.grad for name, p in learner.named_parameters() if p.grad is not None}


def _learner(method: type[Learner], config: LearnerConfig, family: TaskFamily) -> Learner:
    torch.manual_seed(0)
    return method(config, sample_shape(family.inputs), sample_shape(family.outputs), family.loss)


def _mlp(config: LearnerConfig) -> LearnerConfig:
    return config.model_copy(update={"network": "mlp"})


def _batch(family: TaskFamily, tasks: int) -> Batch:
    """The paper's: one support example and 19 queries."""
    return [torch.from_numpy(array) for array in family.sample(np.random.default_rng(0), tasks, 1, 19, "train")]


PROBLEMS = {"rank1": rank1, "conv-c8": conv_c8, "conv-4": conv_4}

if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
