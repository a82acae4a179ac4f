"""Few-shot images through a bundle: the accuracy beside torch's on the same episodes, and what a robot waits for.

The prototypes of `few_shot.py` are trained, or taken from its runs, and exported. Then torch, ONNX Runtime and native
code see the same images. A robot teaches five classes by one image each, and names one image: these are timed in turns.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
import tyro
from few_shot import CELLS, DATA, QUERIES, Size, name_files, plan, train_timed, with_ways
from few_shot import Options as FewShot
from native import compile_native
from numpy.typing import NDArray
from store import EXPORT, RUNTIME, Output, begin, keep, settled
from tables.images import few_shot_bundle as lines_of
from terminal import print_lines
from training import ROOTS, Job, diverged

from msr_envs.registry import load_family
from msr_export import export_checkpoint
from msr_runtime import AdaptiveModel
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.cli.bench import in_turns
from msr_runtime.families import EpisodicFamily
from msr_runtime.meta.evaluation.predictor import torch_adapt
from msr_runtime.meta.training.checkpoint import load_checkpoint
from msr_runtime.meta.training.episodes import EpisodePool
from msr_runtime.task import Adapt

ENGINES = ("onnx", "native")
FIRST = "torch"


@dataclass(frozen=True)
class Options(Output):
    """What to run."""

    methods: tuple[str, ...] = ("orbit-prototypes, D2", "protonets")
    """The methods of prototypes."""
    cells: tuple[str, ...] = tuple(CELLS)
    """The columns: classes x images of each."""
    budget: Size = "quick"
    """How long to train."""
    episodes: int = 600
    """Test episodes of each cell."""
    turns: int = 200
    """Timed calls of each engine."""
    out: Path = Path("runs/few-shot")
    """Folder of the runs; finished ones in it are kept."""
    omniglot: Path | None = field(default=None, metadata={"place": True})
    """The file of Omniglot. None: the environment variable MSR_OMNIGLOT."""


STORED = {"few-shot-bundle": Options()}
"""The stored result, and what it measures."""


class Row(TypedDict):
    """One method by one of torch and the two engines."""

    method: str
    who: str
    cell: str
    accuracy: float
    """Mean over episodes, from 0 to 1."""
    other: float
    """The share of images that torch names otherwise."""
    bundle_bytes: int
    adapt_seconds: float | None
    """The median time to teach five classes by one image each; None for torch."""
    predict_seconds: float | None
    """The median time to name one image."""


def main(options: Options) -> None:
    """Train, export, score, time and print."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    files = (f"benchmarks/{name}.py" for name in ("few_shot", "few_shot_bundle", "native"))
    begun = begin(options, (*ROOTS, *EXPORT, *RUNTIME, *files), seeds=(0,))
    few_shot = FewShot(
        methods=options.methods, budget=options.budget, seeds=1, out=options.out, omniglot=options.omniglot
    )
    name_files(few_shot)
    rows = [row for _, name, _, job in plan(few_shot) for row in measure(name, job, options)]
    print_lines(lines_of(rows), f"{options.episodes} episodes of test classes")
    keep(options, begun, rows)


def measure(name: str, job: Job, options: Options) -> list[Row]:
    """Train one method, export it, and let everybody see the same episodes."""
    train_timed(job)
    if diverged(job.run):
        raise SystemExit(f"error: {job.run.name} diverged; lower its outer rate in few_shot.py")
    checkpoint, family = load_checkpoint(job.run), load_family(job.family)
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_checkpoint(checkpoint, Path(folder) / "bundle", family=family)
        size = sum(path.stat().st_size for path in bundle.iterdir())
        compile_native(bundle)
        models = {engine: AdaptiveModel.load(bundle, engine=engine) for engine in ENGINES}
    adapts: dict[str, Adapt] = {FIRST: torch_adapt(checkpoint.learner, checkpoint.normalization)}
    adapts |= {engine: model.adapted for engine, model in models.items()}
    seconds = times(models, _family("5x1"), options.turns)
    return [
        Row(
            method=name,
            who=who,
            cell=cell,
            accuracy=accuracy,
            other=other,
            bundle_bytes=size,
            adapt_seconds=seconds.get(who, (None, None))[0],
            predict_seconds=seconds.get(who, (None, None))[1],
        )
        for cell in options.cells
        for who, (accuracy, other) in scored(adapts, cell, options.episodes).items()
    ]


def scored(adapts: Mapping[str, Adapt], cell: str, episodes: int) -> dict[str, tuple[float, float]]:
    """Return the accuracy of each, and the share of images that the first one names otherwise."""
    family, (ways, shots) = _family(cell), CELLS[cell]
    pool, rng = EpisodePool(family, split="test"), np.random.default_rng(1)
    right: dict[str, list[float]] = {who: [] for who in adapts}
    other: dict[str, list[float]] = {who: [] for who in adapts}
    for _ in range(episodes):
        support_x, support_y, query_x, query_y = (part[0].numpy() for part in pool.draw(rng, 1, shots, QUERIES))
        named: dict[str, NDArray] = {}
        for who, adapt in adapts.items():
            named[who] = adapt(support_x, support_y)(query_x)[:, :ways].argmax(1)
            right[who].append(float(np.mean(named[who] == query_y)))
            other[who].append(float(np.mean(named[who] != named[FIRST])))
    return {who: (float(np.mean(right[who])), float(np.mean(other[who]))) for who in adapts}


def times(models: Mapping[str, AdaptiveModel], family: EpisodicFamily, turns: int) -> dict[str, tuple[float, float]]:
    """Return the median times of `adapt` to one image of each class, and of `predict` of one image, in turns, in s."""
    batch = EpisodePool(family, split="test").draw(np.random.default_rng(2), 1, 1, 1)
    support_x, support_y, query_x = (part[0].numpy() for part in batch[:3])

    def medians(call: Callable[[AdaptiveModel], object]) -> dict[str, float]:
        taken = in_turns({who: partial(call, model) for who, model in models.items()}, turns, 1)
        return {who: float(np.median(each)) for who, each in taken.items()}

    adapt = medians(lambda model: model.adapt(support_x, support_y, guard=UNLIMITED))
    predict = medians(lambda model: model.predict(query_x[0]))
    return {who: (adapt[who], predict[who]) for who in models}


def _family(cell: str) -> EpisodicFamily:
    family = load_family(with_ways(DATA["omniglot"].family, CELLS[cell][0]))
    assert isinstance(family, EpisodicFamily)
    return family


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
