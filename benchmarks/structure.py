"""How much of U a robot needs: bytes, adapt time and error before and after each step of compression.

Each network is trained for a short time, then exported: as it was learned, rounded, with fewer columns of U, with equal
rows tied, and as `msr export` combines them. All bundles of a network adapt in turns, in one run and on one thread, on
ONNX Runtime and in native code where a C compiler is found. Errors are those of these bundles on fresh tasks, and on
robots outside of the ranges of training. It can be interrupted: trained and measured networks are kept.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import onnx
import structure_left
import torch
import tyro
from native import compile_native
from online_outside import FarHexDrive, FarRingNav
from store import EXPORT, IN_C, ROOT, RUNTIME, Output, Result, begin, keep, settled
from synthetic import PROBLEMS
from tables import NEWTON
from tables.structure import structure as structure_lines
from tables.structure import structure_left as left_lines
from terminal import print_lines
from training import ROOTS, Job, diverged, learner_config, train_all

from msr_envs.hex_drive.family import HexDrive
from msr_envs.registry import load_family
from msr_envs.ring_nav.family import RingNav
from msr_export import export_bundle
from msr_export.cost import JudgedTasks
from msr_export.structure import choose_structure
from msr_export.tying import TiedSymmetry
from msr_runtime import AdaptiveModel
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.bundle.rounding import Precision
from msr_runtime.bundle.store import ADAPT, Bundle
from msr_runtime.cli.bench import in_turns
from msr_runtime.files import write_atomically
from msr_runtime.meta.evaluation.scores import score_all
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.training.checkpoint import Checkpoint, load_checkpoint
from msr_runtime.meta.training.config import TrainSettings
from msr_runtime.task import TaskFamily

WHEELS = f"{ROOT / 'examples' / 'four_wheels.py'}:FourWheels"
"""The family of four wheels, as a user names one from outside."""
WIDTH = 48
"""Units of the robots' networks, as in the demo."""
AS_LEARNED, BOTH = "as learned", "as exported"
NATIVE = ", native"
COLUMNS = "fewer columns"
MANY = 64
"""Support samples of a robot that takes its time."""
PRECISIONS: dict[str, Precision] = {AS_LEARNED: "float32", f"{BOTH}, int8": "int8"}
"""Step to precision. In all other steps, the exporter chooses it."""


class Case(NamedTuple):
    """How a network is trained."""

    family: str
    method: str
    learner: LearnerConfig
    settings: TrainSettings


def _synthetic(problem: str, run: str) -> Case:
    """One of the paper's problems, as `synthetic.py` trains it."""
    settings = TrainSettings(
        steps=1000,
        tasks_per_step=32,
        shots=1,
        queries=19,
        training_tasks=PROBLEMS[problem].training_tasks,
        samples_per_task=20,
        augment=False,
    )
    return Case(PROBLEMS[problem].family, "msr", PROBLEMS[problem].runs[run].learner, settings)


def _robot(family: str, method: str) -> Case:
    settings = TrainSettings(steps=600, training_tasks=600)
    return Case(family, method, learner_config(method, width=WIDTH), settings)


CASES = {
    "rank 1, one gradient step": _synthetic("rank1", "msr, one gradient step"),
    "rank 1, ridge": _synthetic("rank1", "msr, ridge"),
    "conv-c8-hard, one gradient step": _synthetic("conv-c8-hard", "msr, U of 18, one step"),
    "conv-c8-hard, ridge": _synthetic("conv-c8-hard", "msr, U of 18, ridge"),
    "ring-nav, gradient": _robot("ring-nav", "msr"),
    "ring-nav, gauss-newton": _robot("ring-nav", "msr" + NEWTON),
    "hex-drive, gradient": _robot("hex-drive", "msr"),
    "hex-drive, gauss-newton": _robot("hex-drive", "msr" + NEWTON),
    "four wheels, gradient": _robot(WHEELS, "msr"),
    "four wheels, gauss-newton": _robot(WHEELS, "msr" + NEWTON),
}
"""The networks, by their names in the table."""


@dataclass(frozen=True)
class Options(Output):
    """What to measure."""

    cases: tuple[str, ...] = tuple(CASES)
    """The networks."""
    turns: int = 300
    """Adaptations of each bundle in one run."""
    runs: int = 3
    """How many times the bundles take turns; the table has the median and the range of the runs."""
    tasks: int = 100
    """Fresh tasks to score on."""
    out: Path = Path("runs/structure")
    """Folder of the trained networks; finished ones in it are kept."""


STORED = {"structure": Options()}
"""The stored result, and what it measures."""


class Row(TypedDict):
    """One network after one step of compression."""

    case: str
    step: str
    filter_parameters: int
    """The numbers of v."""
    multiply_adds: int
    """Multiplications of one product with every U."""
    different_rows: dict[str, int]
    """Weight to its different rows of U, where equal ones are tied."""
    convolutions: list[str]
    """Those of these weights that are exact 1-D convolutions: all diagonals are constant."""
    stored_as: str
    symmetry_bytes: int
    """The constants of adapt.onnx: U, and next to nothing else."""
    bundle_bytes: int
    adapt_seconds: list[float]
    """The median of each run, on ONNX Runtime."""
    native_seconds: list[float]
    """The same in native code; empty where it was not compiled."""
    error: float
    """Over the orbit, after adapting, relative squared error on fresh tasks."""
    many_error: float
    """The same after `MANY` samples."""
    outside_error: float | None
    """The same as `error`, on tasks outside of the ranges of training; only for robots."""


class Left(TypedDict):
    """What more a network's U would allow once columns are left out."""

    case: str
    zeros: float
    factors: float


def main(options: Options) -> None:
    """Train, compress, measure and print."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    if unknown := [case for case in options.cases if case not in CASES]:
        raise SystemExit(f"error: there is no network '{unknown[0]}'; there are {', '.join(CASES)}")
    own = ("structure", "structure_left", "synthetic", "online_outside", "native")
    files = (*(f"benchmarks/{name}.py" for name in own), "examples/four_wheels.py")
    begun = begin(options, (*ROOTS, *EXPORT, *IN_C, *RUNTIME, *files), seeds=(0,))
    if not (compiler := shutil.which("cc")):
        print("there is no C compiler 'cc', so native code is not timed")
    jobs = {name: Job(options.out / name, *CASES[name]) for name in options.cases}
    train_all(list(jobs.values()))
    rows = []
    for name, job in jobs.items():
        if diverged(job.run):
            raise SystemExit(f"error: {job.run} diverged; delete it, and lower its inner rate")
        rows += once(job.run, begun, lambda name=name, run=job.run: measure(name, run, compiler is not None, options))
    print_lines(structure_lines(rows), f"on {options.tasks} fresh tasks; adaptations in turns, over those as learned")
    print_lines(left_lines(rows), "what else U would allow at 2 % more error")
    keep(options, begun, rows)


def once(run: Path, begun: Result, measured: Callable[[], list[Row | Left]]) -> list[Row | Left]:
    """Measure a network, or take what the same code measured with the same settings before it was interrupted."""
    kept, known = run / "measured.json", {"code": begun["code"], "settings": begun["settings"]}
    if kept.exists() and (before := json.loads(kept.read_text()))["known"] == known:
        return before["rows"]
    print(f"compressing {run.name}", flush=True)
    rows = measured()
    write_atomically(kept, json.dumps({"known": known, "rows": rows}).encode())
    return rows


def measure(case: str, run: Path, native: bool, options: Options) -> list[Row | Left]:
    """Compress one network, and measure every step."""
    checkpoint = load_checkpoint(run)
    family, shots = load_family(CASES[case].family), CASES[case].settings.shots
    learners = compressed(checkpoint, family)
    with tempfile.TemporaryDirectory() as folder:
        bundles = {
            step: export_bundle(
                learner,
                checkpoint.normalization,
                Path(folder) / str(index),
                family=family,
                shots=shots,
                seed=0,
                config_digest=checkpoint.digest,
                validation_tasks=50,
                precision=PRECISIONS.get(step),
                structure=False,
            )
            for index, (step, learner) in enumerate(learners.items())
        }
        models = {step: AdaptiveModel.load(path) for step, path in bundles.items()}
        sizes = {step: sum(map(len, Bundle.open(path).files.values())) for step, path in bundles.items()}
        if native:
            for step, path in bundles.items():
                compile_native(path)
                models[step + NATIVE] = AdaptiveModel.load(path, engine="native")
    seconds = adapt_seconds(models, family, shots, options)
    adapts = {step: models[step].adapted for step in learners}

    def errors(judging: TaskFamily, count: int) -> dict[str, float]:
        scores = score_all(judging, adapts, np.random.default_rng(1), tasks=options.tasks, shots=count)
        return {step: float(each.orbit.mean()) for step, each in scores.items()}

    here, many, far = errors(family, shots), errors(family, MANY), outside(family)
    there = errors(far, shots) if far else {}
    rows: list[Row | Left] = [
        Row(
            case=case,
            step=step,
            filter_parameters=learner.adapted_size(),
            multiply_adds=sum(symmetry.numel() for symmetry in _symmetries(learner)),
            different_rows={name: len(part.R) for name, part in _tied(learner)},
            convolutions=[name for name, part in _tied(learner) if is_convolution(part)],
            stored_as=rounding.precision if (rounding := models[step].manifest.rounding) else "float32",
            symmetry_bytes=_constant_bytes(models[step].bundle),
            bundle_bytes=sizes[step],
            adapt_seconds=seconds[step],
            native_seconds=seconds.get(step + NATIVE, []),
            error=here[step],
            many_error=many[step],
            outside_error=there.get(step),
        )
        for step, learner in learners.items()
    ]
    judged = JudgedTasks(checkpoint.normalization, family, shots=shots, seed=2, tasks=options.tasks)
    smaller = learners.get(COLUMNS, checkpoint.learner if any(_tied(learners[BOTH])) else learners[BOTH])
    left = Left(case=case, zeros=structure_left.zeros(smaller, judged), factors=structure_left.factors(smaller, judged))
    return [*rows, left]


def compressed(checkpoint: Checkpoint, family: TaskFamily) -> dict[str, Learner]:
    """Return the learner after each step. Rounding is left to the export.

    Rows alone and columns alone have a step of their own if the export takes both.
    """
    learner, shots = checkpoint.learner, checkpoint.config.settings.shots

    def smaller(**parts: bool) -> Learner:
        normalization = checkpoint.normalization
        return choose_structure(learner, normalization, family, shots=shots, seed=0, tasks=100, **parts)[0]

    both, alone = smaller(), {}
    if any(_tied(both)) and both.adapted_size() < learner.adapted_size():
        alone = {COLUMNS: smaller(rows=False), "equal rows": smaller(columns=False)}
    return {AS_LEARNED: learner, "rounded": learner, **alone, BOTH: both, f"{BOTH}, int8": both}


def outside(family: TaskFamily) -> TaskFamily | None:
    """Return a family of robots outside of the ranges of training, or None for the paper's problems."""
    if isinstance(family, RingNav):
        return FarRingNav()
    if isinstance(family, HexDrive):
        return FarHexDrive()
    if not isinstance(ranges := getattr(family, "ranges", None), dict):
        return None
    # 30 to 100 % of each range above it, as those of the two others
    far = {name: (high + 0.3 * (high - low), high + (high - low)) for name, (low, high) in ranges.items()}
    return type("Far", (type(family),), {"ranges": far})()


def adapt_seconds(
    models: Mapping[str, AdaptiveModel], family: TaskFamily, shots: int, options: Options
) -> dict[str, list[float]]:
    """Let all models adapt to one task in turns, one adaptation each: the median of each run, in s."""
    batch = family.sample(np.random.default_rng(3), 1, shots, 2 * len(family.query_sets), "test")
    support = batch.support_x[0], batch.support_y[0]
    calls = {key: partial(model.adapt, *support, guard=UNLIMITED) for key, model in models.items()}
    seconds: dict[str, list[float]] = {key: [] for key in calls}
    rng = np.random.default_rng(0)
    for _ in range(options.runs):
        for native in (False, True):
            # Alone, and in another order in each run: what ran just before decides what the caches hold.
            group = [str(key) for key in rng.permutation([key for key in calls if key.endswith(NATIVE) == native])]
            timed = in_turns({key: calls[key] for key in group}, options.turns, 1)
            for key in group:
                seconds[key].append(float(np.median(timed[key])))
    return seconds


def is_convolution(symmetry: TiedSymmetry) -> bool:
    """Whether a weight is an exact 1-D convolution, whatever v is: each diagonal is one number, the same or zero."""
    if len(symmetry.shape) != 2:
        return False
    entries = np.full(symmetry.shape.numel() + 1, -1)
    for row, places in enumerate(symmetry.places.numpy()):
        entries[places] = row
    matrix = entries[:-1].reshape(symmetry.shape)
    return bool(np.array_equal(matrix[1:, 1:], matrix[:-1, :-1]))


def _symmetries(learner: Learner) -> Iterator[torch.Tensor]:
    """What a product with each U multiplies by: U, or its different rows."""
    for name, parameter in learner.network.named_parameters():
        if name.endswith((".0.U", ".0.R")):
            yield parameter


def _tied(learner: Learner) -> Iterator[tuple[str, TiedSymmetry]]:
    for name, module in learner.network.named_modules():
        if isinstance(module, TiedSymmetry):
            yield name.replace("parametrizations.", "").removesuffix(".0"), module


def _constant_bytes(bundle: Bundle) -> int:
    """The bytes of adapt.onnx's constants, as they are stored."""
    graph = onnx.load_from_string(bundle.files[ADAPT]).graph
    return sum(len(onnx.numpy_helper.to_array(each).tobytes()) for each in graph.initializer)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
