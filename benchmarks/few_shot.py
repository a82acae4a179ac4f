"""Few-shot images under augmentation: the headline table of Zhou et al. (2021), and prototypes that know the group.

A task is an episode of N classes with K images each. The support set is as it is; the queries are turned within 30
degrees, flipped and resized. Accuracies are on classes that no method has seen, over many episodes that are the same
for all. Methods of prototypes train once, on tasks of many classes, for all columns; methods that take gradient steps
train once a column. Every setting was chosen on validation classes.

One cell: `few_shot.py --data omniglot --cells 5x1 --methods orbit-prototypes`. It can be interrupted: run again, it
goes on; runs that other code trained are trained anew. The images are files of the user: `--omniglot PATH`, `--images
PATH`.
"""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import torch
import tyro
from intervals import half_interval
from numpy.typing import NDArray
from store import Output, begin, keep, settled
from tables.images import PAPER
from tables.images import few_shot as few_shot_lines
from terminal import print_lines
from training import ROOTS, Job, diverged, process_pool, train

from msr_envs.registry import load_family
from msr_runtime.families import EpisodicFamily
from msr_runtime.meta.learners.config import FOUND, LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.training.checkpoint import load_checkpoint
from msr_runtime.meta.training.config import TrainSettings
from msr_runtime.meta.training.episodes import EpisodePool
from msr_runtime.normalization import Normalization

CELLS = {"5x1": (5, 1), "5x5": (5, 5), "20x1": (20, 1), "20x5": (20, 5)}
"""The columns: classes and images of each."""
QUERIES = 15
"""Queries of each class in an episode that is scored."""


class Data(NamedTuple):
    """A data set."""

    family: str
    """Its name and options; `ways` is added."""
    variable: str
    """The environment variable that names its file."""
    ways: int
    """Classes of a task on which prototypes train."""
    cells: tuple[str, ...]
    groups: tuple[str | None, ...] = (None, "D2", FOUND)
    """What a network may hold of what moves its queries: nothing, a group, or what is found."""


DATA = {
    "omniglot": Data("omniglot", "MSR_OMNIGLOT", 64, tuple(CELLS)),
    "omniglot, turned classes": Data("omniglot:turned=true", "MSR_OMNIGLOT", 64, tuple(CELLS)),
    "photographs": Data("images:size=42", "MSR_IMAGES", 12, ("5x1", "5x5")),
    "photographs, any angle": Data(
        "images:size=33,angle=any,flips=none", "MSR_IMAGES", 12, ("5x1", "5x5"), (None, "C4", "C8")
    ),
}


_CLASSES_PER_STEP = 64
"""Classes of all tasks together in an outer step of prototypes."""


class Method(NamedTuple):
    """One row of the table."""

    method: str
    learner: LearnerConfig
    prototypes: bool = False
    """Whether it trains once for all columns."""
    outer_rate: float = 0.012


_SLOW = 3e-3
"""The outer rate of methods that take gradient steps."""
_GRID = LearnerConfig(network="conv-grid", width=64, depth=4)
_CONV4 = LearnerConfig(network="conv", width=64, depth=4, inner_steps=3, inner_rate=0.1)
_MSR = _CONV4.model_copy(update={"form": "kronecker"})
METHODS = {
    f"orbit-prototypes, {name}": Method(
        "orbit-prototypes", _GRID.model_copy(update={"grid_group": group}), prototypes=True
    )
    for name, group in (("D2", "D2"), ("C4", "C4"), ("C8", "C8"), ("group found", FOUND))
} | {
    "protonets": Method("protonets", _GRID.model_copy(update={"head": "map", "temperature": 0.1}), prototypes=True),
    "msr": Method("msr", _MSR, outer_rate=_SLOW),
    "msr, D2 filters": Method(
        "msr",
        _GRID.model_copy(update={"form": "equivariant", "grid_group": "D2", "inner_steps": 3, "inner_rate": 0.1}),
        outer_rate=_SLOW,
    ),
    "maml": Method("maml", _CONV4, outer_rate=_SLOW),
    "maml-big": Method("maml-big", _MSR, outer_rate=_SLOW),
    "anil": Method("anil", _CONV4, outer_rate=_SLOW),
}
"""Name in the table to the method. MSR has one Kronecker term per layer on output channels, input channels and taps,
and, as MAML and ANIL, the paper's four-layer net. What is `found` is found in the augmentation, within the training."""


class Budget(NamedTuple):
    """Outer steps of each kind of method."""

    prototypes: int
    gradient: int


Size = Literal["smoke", "quick", "night", "paper"]
BUDGETS: dict[Size, Budget] = {
    "smoke": Budget(8, 4),
    "quick": Budget(3600, 1500),
    "night": Budget(30_000, 12_000),
    "paper": Budget(60_000, 60_000),
}
"""`quick` is 5 minutes of one core a row of prototypes and 20 a cell of gradient steps."""


@dataclass(frozen=True)
class Options(Output):
    """What to run."""

    data: tuple[str, ...] = ("omniglot",)
    """The data sets."""
    cells: tuple[str, ...] = tuple(CELLS)
    """The columns: classes x images of each."""
    methods: tuple[str, ...] = tuple(METHODS)
    """The rows whose names begin with one of these."""
    budget: Size = "quick"
    """How long to train."""
    seeds: int = 3
    """Seeds of each."""
    episodes: int = 600
    """Test episodes of each cell."""
    out: Path = Path("runs/few-shot")
    """Folder of the runs; finished ones in it are kept."""
    omniglot: Path | None = field(default=None, metadata={"place": True})
    """The file of Omniglot. None: the environment variable MSR_OMNIGLOT."""
    images: Path | None = field(default=None, metadata={"place": True})
    """The file of photographs. None: the environment variable MSR_IMAGES."""


_PROTOTYPES = ("orbit-prototypes, D2", "protonets")
_TURNS = ("orbit-prototypes, C4", "orbit-prototypes, C8")
_STEPPING = tuple(name for name, method in METHODS.items() if not method.prototypes)
STORED = {
    "few-shot-quick": Options(methods=_PROTOTYPES, seeds=1),
    "few-shot-found-quick": Options(methods=("orbit-prototypes, group found",), seeds=1),
    "few-shot-gradient-quick": Options(methods=_STEPPING, seeds=1),
    "few-shot-photographs": Options(data=("photographs",), methods=_PROTOTYPES, seeds=1),
    "few-shot-any-angle": Options(data=("photographs, any angle",), methods=(*_TURNS, "protonets"), seeds=1),
    "few-shot-night": Options(budget="night"),
    "few-shot-night-prototypes": Options(methods=_PROTOTYPES[:1], budget="night", seeds=1),
}
"""The stored results, and what each of them measures."""


class Cell(TypedDict):
    """One scored cell."""

    data: str
    method: str
    cell: str
    seed: int
    accuracy: float
    """Mean over episodes, from 0 to 1."""
    interval: float
    """Half of the 95 % interval of that mean."""
    paper: float | None
    """What the paper states, in percent."""
    steps: int
    """Outer steps of the run."""
    seconds: float
    """Processor time of its training, all columns together for prototypes."""
    numbers: int
    """Learned numbers."""


def main(options: Options) -> None:
    """Train, score and print."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    begun = begin(options, (*ROOTS, "benchmarks/few_shot.py"), range(options.seeds))
    name_files(options)
    jobs = list(plan(options))
    if not jobs:
        raise SystemExit(
            f"error: nothing is called {' or '.join((*options.methods, *options.data, *options.cells))}; methods are "
            f"{'; '.join(METHODS)}; data {'; '.join(DATA)}; cells {'; '.join(CELLS)}"
        )
    rows: list[Cell] = []
    with process_pool() as pool:
        for found in pool.map(run, *zip(*jobs, strict=True), [options.episodes] * len(jobs)):
            for row in found:
                seen = f"{100 * row['accuracy']:.1f} ± {100 * row['interval']:.1f}"
                print(f"{row['data']}, {row['method']}, {row['cell']}, seed {row['seed']}: {seen} %", flush=True)
            rows += found
    print_lines(few_shot_lines(rows), f"accuracy in % on {options.episodes} episodes of test classes, mean over seeds")
    keep(options, begun, rows)


def name_files(options: Options) -> None:
    """Tell the families, here and in the workers, where the images lie."""
    for path, variable in ((options.omniglot, "MSR_OMNIGLOT"), (options.images, "MSR_IMAGES")):
        if path is not None:
            os.environ[variable] = str(path.resolve())


def plan(options: Options) -> Iterable[tuple[str, str, tuple[str, ...], Job]]:
    """Yield data, method, the columns that a run serves, and the run."""
    for (data, spec), (name, method), seed in product(DATA.items(), METHODS.items(), range(options.seeds)):
        if data not in options.data or not name.startswith(options.methods):
            continue
        if method.learner.grid_group not in spec.groups:
            continue
        cells = tuple(cell for cell in spec.cells if cell in options.cells)
        for served in [cells] if method.prototypes and cells else [(cell,) for cell in cells]:
            ways, shots = (spec.ways, 1) if method.prototypes else CELLS[served[0]]
            steps = getattr(BUDGETS[options.budget], "prototypes" if method.prototypes else "gradient")
            settings = TrainSettings(
                steps=steps,
                seed=seed,
                tasks_per_step=_CLASSES_PER_STEP // ways if method.prototypes else 8,
                shots=shots,
                queries=2 if method.prototypes else 5,
                outer_rate=method.outer_rate,
                validation_tasks=4,
                validation_every=max(1, steps // 4),
            )
            column = "all columns" if method.prototypes else served[0]
            folder = options.out / options.budget / f"{data} {name} {column} {seed}"
            # each turn of a training class is a class of its own, whether the tested classes are turned or not
            family = with_ways(spec.family.removesuffix(":turned=true"), ways, turned="omniglot" in spec.family)
            yield data, name, served, Job(folder, family, method.method, method.learner, settings)


def with_ways(name: str, ways: int, *, turned: bool = False) -> str:
    """Return the name of a family with so many classes in a task, and with turned classes if they are asked for."""
    options = [f"ways={ways}", *(["turned=true"] if turned else [])]
    return f"{name}{',' if ':' in name else ':'}{','.join(options)}"


def train_timed(job: Job) -> float:
    """Train as `train` does, and return the processor time of the whole run in s, its interrupted parts included."""
    clock, metrics, began = job.run / "seconds.json", job.run / "metrics.jsonl", time.process_time()
    had = metrics.read_bytes() if metrics.exists() else b""
    train(job)
    seconds = json.loads(clock.read_text()) if clock.exists() else 0.0
    if metrics.read_bytes() != had:  # else the run was finished before
        seconds += time.process_time() - began
        clock.write_text(json.dumps(seconds))
    return seconds


def run(data: str, name: str, cells: tuple[str, ...], job: Job, episodes: int) -> list[Cell]:
    """Train one run, or take it as it is if it is finished, and score its columns."""
    torch.set_num_threads(1)
    seconds = train_timed(job)
    if diverged(job.run):
        raise SystemExit(f"error: {job.run.name} diverged; lower its outer rate in METHODS")
    checkpoint = load_checkpoint(job.run)
    found = []
    for cell in cells:
        ways, shots = CELLS[cell]
        family = load_family(with_ways(DATA[data].family, ways))
        assert isinstance(family, EpisodicFamily)
        accuracy = accuracies(checkpoint.learner, checkpoint.normalization, family, shots, episodes)
        stated = PAPER.get(name)
        found.append(
            Cell(
                data=data,
                method=name,
                cell=cell,
                seed=job.settings.seed,
                accuracy=float(accuracy.mean()),
                interval=half_interval(accuracy),
                paper=stated[list(CELLS).index(cell)] if stated and "omniglot" in data else None,
                steps=job.settings.steps,
                seconds=seconds,
                numbers=sum(p.numel() for p in checkpoint.learner.parameters() if p.requires_grad),
            )
        )
    return found


def accuracies(
    learner: Learner, normalization: Normalization, family: EpisodicFamily, shots: int, episodes: int
) -> NDArray[np.float64]:
    """Return the share of right answers in each of some episodes of test classes: `(episodes,)`.

    A learner of more classes than the family's adapts to these alone, and its other scores are left out.
    """
    pool, rng = EpisodePool(family, normalization=normalization, split="test"), np.random.default_rng(1)
    right = []
    for _ in range(episodes):
        (support_x,), (support_y,), (query_x,), (query_y,) = pool.draw(rng, 1, shots, QUERIES)
        with torch.no_grad():
            scores = learner(learner.adapt(support_x, support_y), query_x)[:, : family.ways]
        right.append((scores.argmax(1) == query_y).double().mean().item())
    return np.array(right)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
