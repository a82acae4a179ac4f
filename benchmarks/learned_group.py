"""How much of a known group the outer loop puts into U by itself: filter banks, on characters that are flipped.

MSR trains as Algorithm 2 says: support sets as they are, queries that are flipped, turned within 30 degrees and
resized. Nothing tells it the flips. `held` says how much of the group of both flips the U of the first convolution
holds, for the best action on its output channels: 1 is all. Beside it stands the same of the identity, where each
weight is a filter parameter of its own, and of U before training.

The images are a file of the user: `--omniglot PATH`.
"""

import os
import tempfile
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
import tyro
from few_shot import accuracies
from intervals import half_interval
from numpy.typing import NDArray
from store import TRAINING, Output, begin, keep, settled
from tables.images import learned_group as learned_group_lines
from terminal import print_lines
from torch.nn.utils.parametrize import is_parametrized

from msr_envs.registry import load_family
from msr_runtime.families import EpisodicFamily
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.symmetry.forms import Symmetry
from msr_runtime.meta.symmetry.grid import GridGroup
from msr_runtime.meta.symmetry.measures import held
from msr_runtime.meta.training.checkpoint import LAST, build_learner, load_checkpoint
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.trainer import train

FAMILY, GROUP = "omniglot:size=14,turned=true", "D2"
_NET = LearnerConfig(network="conv-grid", width=8, depth=2, head="mean", rule="gradient", inner_steps=2)
FORMS = {
    "full, 32 filters": {"form": "full", "filters": 32},
    "kronecker": {"form": "kronecker"},
    "kronecker, 4 terms": {"form": "kronecker", "terms": 4},
    "kronecker, begun at the group": {"form": "kronecker", "grid_group": GROUP},
    "equivariant": {"form": "equivariant", "grid_group": GROUP},
}
"""Name in the table to the options of the learner. The last two are given the group."""


@dataclass(frozen=True)
class Options(Output):
    """What to measure."""

    forms: tuple[str, ...] = tuple(FORMS)
    """The forms of U."""
    augment: bool = True
    """Augment the queries. Off: a control, in which nothing is there to learn the group from."""
    steps: int = 1500
    """Outer steps."""
    seeds: int = 1
    """Seeds of each form."""
    episodes: int = 200
    """Test episodes."""
    omniglot: Path | None = field(default=None, metadata={"place": True})
    """The file of Omniglot. None: the environment variable MSR_OMNIGLOT."""


STORED = {
    "learned-group": Options(),
    "learned-group-control": Options(forms=tuple(FORMS)[:2], augment=False),
}
"""The stored results, and what they measure."""


class Row(TypedDict):
    """One trained run."""

    form: str
    augmented: bool
    seed: int
    held_by_identity: float
    held_before: float
    held_after: float
    accuracy: float
    """Of 5 classes with one image each, from 0 to 1, over the test episodes."""
    interval: float
    """Half of its 95 % interval."""
    seconds: float
    """Processor time of the training."""


def main(options: Options) -> None:
    """Train and print."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    begun = begin(options, (*TRAINING, "benchmarks/learned_group.py"), range(options.seeds))
    if options.omniglot is not None:
        os.environ["MSR_OMNIGLOT"] = str(options.omniglot.resolve())
    rows = []
    for form, seed in product(options.forms, range(options.seeds)):
        rows.append(measure(form, seed, options))
        print(f"{form}, seed {seed}: held {rows[-1]['held_before']:.3f} to {rows[-1]['held_after']:.3f}", flush=True)
    print_lines(learned_group_lines(rows), f"how much of the group {GROUP} the first convolution's U holds")
    keep(options, begun, rows)


def measure(form: str, seed: int, options: Options) -> Row:
    """Train one form and look at its U."""
    family = load_family(FAMILY)
    settings = TrainSettings(
        steps=options.steps,
        seed=seed,
        tasks_per_step=4,
        shots=1,
        queries=3,
        outer_rate=5e-3,
        validation_tasks=2,
        validation_every=options.steps,
        augment=options.augment,
    )
    config = TrainConfig.of(family, "msr", _NET.model_copy(update=FORMS[form]), settings)
    before, began = first_u(build_learner(config)), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = train(family, config, folder, progress=False).run
        seconds = time.process_time() - began
        checkpoint = load_checkpoint(run / LAST)
    after, moves = first_u(checkpoint.learner), _moves(before)
    tested = load_family(FAMILY.replace(",turned=true", ""))
    assert isinstance(tested, EpisodicFamily)
    accuracy = accuracies(checkpoint.learner, checkpoint.normalization, tested, 1, options.episodes)
    free = np.eye(before[..., 0].size).reshape(*before.shape[:2], -1)
    return Row(
        form=form,
        augmented=options.augment,
        seed=seed,
        held_by_identity=held(free, moves),
        held_before=held(before, moves),
        held_after=held(after, moves),
        accuracy=float(accuracy.mean()),
        interval=half_interval(accuracy),
        seconds=seconds,
    )


def first_u(learner: Learner) -> NDArray[np.float64]:
    """Return U of the first layer's weight, which reads one channel: `(out, taps, k)`."""
    layer = next(module for module in learner.network.modules() if is_parametrized(module, "weight"))
    symmetry = layer.get_submodule("parametrizations.weight.0")
    assert isinstance(symmetry, Symmetry)
    size = int(np.prod(symmetry.filter_shape))
    with torch.no_grad():
        columns = [symmetry(one.reshape(symmetry.filter_shape)).flatten(1) for one in torch.eye(size)]
    return torch.stack(columns, -1).double().numpy()


def _moves(u: NDArray[np.float64]) -> NDArray[np.int64]:
    size = round(u.shape[1] ** 0.5)
    return GridGroup.named(GROUP).on_grid(size, size)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
