"""New parts below a camera: seen once each, then named however they lie, through a bundle on ONNX Runtime.

Each scene has seven parts that no training saw. Five are taught by one view each. Then all seven are turned by any
angle, several times: the five should be named, and the other two are none of these. Then a sixth is taught, from one
view. In half of the scenes all parts have the same base. Prototypes that hold quarter turns are compared with plain
ones of equal width and equal steps.

It renders off screen: set MUJOCO_GL=egl. It can be interrupted: run again, it goes on where it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
import tyro
from few_shot import train_timed
from intervals import half_interval
from numpy.typing import NDArray
from store import EXPORT, RUNTIME, Output, begin, keep, settled
from tables.images import new_parts as new_parts_lines
from terminal import print_lines
from training import ROOTS, Job, diverged

from msr_envs.registry import load_family
from msr_envs.table import Table, as_inputs, draw_part, write_parts
from msr_export import export_checkpoint
from msr_runtime import AdaptiveModel, UpdateGuard
from msr_runtime.bundle.manifest import MANIFEST
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.training.checkpoint import load_checkpoint
from msr_runtime.meta.training.config import TrainSettings

TAUGHT, OTHERS = 5, 2
"""Parts of a scene that are taught first, and others."""
UPRIGHT, ANY = 5.0, 180.0
"""How far parts are turned where they are shown, and later, in degrees."""
WAYS = 16
"""Classes of a training task, and so the most that a bundle can be taught."""
_GRID = LearnerConfig(network="conv-grid", width=32, depth=4)
METHODS = {
    "orbit-prototypes, C4": ("orbit-prototypes", _GRID.model_copy(update={"grid_group": "C4"})),
    "protonets": ("protonets", _GRID.model_copy(update={"head": "map", "temperature": 0.1})),
}
"""Name in the table to the method and its network."""
KINDS = {"any parts": False, "one base": True}
"""Name of a kind of scene to whether its parts share their base."""


@dataclass(frozen=True)
class Options(Output):
    """What to run."""

    steps: int = 1000
    """Outer steps of each training."""
    scenes: int = 100
    """Scenes of each kind."""
    looks: int = 4
    """How often the camera looks at the turned parts of a scene."""
    parts: tuple[int, int, int] = (243, 63, 63)
    """Parts to train, validate and test with, ten views of each."""
    out: Path = Path("runs/new-parts")
    """Folder of the images, runs and bundles."""


STORED = {"new-parts": Options()}


class Row(TypedDict):
    """One method on one kind of scenes; shares from 0 to 1."""

    method: str
    kind: str
    right: float
    """Views of the five parts with the right name."""
    interval: float
    """Half of its 95 % interval, over scenes."""
    known: float
    """Views of the five parts that are called unknown."""
    unknown: float
    """Views of the other two that are."""
    six: float
    """Views of six parts with the right name, once the sixth was added."""
    refused: float
    """Scenes whose five views the guard of updates would have refused."""
    seconds: float
    """Processor time of the training."""
    bytes: int
    """Size of predict.onnx and adapt.onnx."""


def main(options: Options) -> None:
    """Write the images, train, export, look and print."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    begun = begin(options, (*ROOTS, *EXPORT, *RUNTIME, "benchmarks/new_parts.py"), seeds=(0,))
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "parts.npz"
    if not file.exists():
        write_parts(file, options.parts)
    learned = {name: learn(name, options, file) for name in METHODS}
    rows = [row for kind in KINDS for row in look(kind, learned, options)]
    print_lines(new_parts_lines(rows), f"{options.scenes} scenes of each kind, shares in %")
    keep(options, begun, rows)


def learn(name: str, options: Options, file: Path) -> tuple[Path, float]:
    """Train and export one method, or take it as it is; return its bundle and the processor time of the training."""
    method, learner = METHODS[name]
    run = options.out / f"{method} {options.steps}"
    family = f"images:file={file.resolve()},ways={WAYS},angle=any,flips=none,crop=0.9"
    settings = TrainSettings(
        steps=options.steps,
        tasks_per_step=4,
        shots=1,
        queries=2,
        outer_rate=0.012,
        validation_tasks=10,
        validation_every=max(1, options.steps // 5),
    )
    bundle, seconds = run / "bundle", train_timed(Job(run, family, method, learner, settings))
    if diverged(run):
        raise SystemExit(f"error: {run.name} diverged; lower its outer rate")
    if not (bundle / MANIFEST).exists():
        export_checkpoint(load_checkpoint(run), bundle, family=load_family(family))
    return bundle, seconds


def look(kind: str, learned: Mapping[str, tuple[Path, float]], options: Options) -> list[Row]:
    """Teach and name the parts of all scenes of one kind, with each method's bundle."""
    models = {name: AdaptiveModel.load(bundle) for name, (bundle, _) in learned.items()}
    found = {name: [] for name in models}
    for scene in range(options.scenes):
        seen = see(np.random.default_rng([list(KINDS).index(kind), scene]), KINDS[kind], options.looks)
        for name, model in models.items():
            found[name].append(name_parts(model, *seen))
    rows = []
    for name, (bundle, seconds) in learned.items():
        scenes = np.array(found[name])
        right, known, unknown, six, refused = scenes.mean(0).tolist()
        rows.append(
            Row(
                method=name,
                kind=kind,
                right=right,
                interval=half_interval(scenes[:, 0]),
                known=known,
                unknown=unknown,
                six=six,
                refused=refused,
                seconds=seconds,
                bytes=sum((bundle / file).stat().st_size for file in ("predict.onnx", "adapt.onnx")),
            )
        )
    return rows


def name_parts(
    model: AdaptiveModel, once: NDArray[np.float32], views: NDArray[np.float32], part: NDArray[np.int64]
) -> tuple[float, ...]:
    """Teach five parts and name all, then teach a sixth; return the shares of `Row`, from `right` to `refused`."""
    free = UpdateGuard(trust=np.inf, loss=np.inf)  # the share that the limits would refuse is counted apart
    refused = not model.adapt(once[:TAUGHT], np.arange(TAUGHT)).accepted
    model.adapt(once[:TAUGHT], np.arange(TAUGHT), guard=free)
    found, taught = model.classify(views), part < TAUGHT
    model.adapt(once[TAUGHT:][:1], np.array([TAUGHT]), start="accepted", guard=free)
    six = model.classify(views)
    return (
        (found.label == part)[taught].mean(),
        1 - found.known[taught].mean(),
        1 - found.known[~taught].mean(),
        (six.label == part)[part <= TAUGHT].mean(),
        float(refused),
    )


def see(
    rng: np.random.Generator, alike: bool, looks: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Show the parts of a new scene.

    Args:
        rng: The source of all randomness.
        alike: Whether the parts share their base.
        looks: How often the camera looks at them after they were turned.

    Returns:
        One view of each part as it is shown, `(parts, 3, 28, 28)`; views of the turned parts; and which part is in each
        of these.
    """
    first = draw_part(rng)
    parts = [first, *(draw_part(rng, first if alike else None) for _ in range(TAUGHT + OTHERS - 1))]
    with Table(parts) as table:
        once = table.views(rng, table.lay(rng, UPRIGHT))
        turned = [table.views(rng, table.lay(rng, ANY)) for _ in range(looks)]
    return as_inputs(once), as_inputs(np.concatenate(turned)), np.tile(np.arange(len(parts)), looks)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
