"""`msr evaluate`: errors on fresh tasks and, where the family has it, the closed loop."""

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from msr_envs.registry import load_family
from msr_runtime.commands.output import print_rows, write_json
from msr_runtime.errors import FamilyError, InputError
from msr_runtime.manifest import MANIFEST
from msr_runtime.meta.evaluation import score
from msr_runtime.model import AdaptiveModel
from msr_runtime.task import Adapt, ClosedLoopFamily, Field, Split, TaskFamily


def evaluate(
    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BUNDLE|RUN|CHECKPOINT")],
    /,
    family: str | None = None,
    tasks: int = 100,
    closed_loop_tasks: int = 0,
    split: Split = "test",
    seed: int = 0,
    json: Path | None = None,
) -> int:
    """Adapt to fresh tasks and print the errors, mean and 95 % half-width over the tasks.

    An error is relative to the mean square of y; for labels it is the share of wrong answers.

    Args:
        path: A bundle, a run's folder or a checkpoint.
        family: The task family; by default the one that it was trained on.
        tasks: Tasks to adapt to.
        closed_loop_tasks: Tasks to drive the robot in; none by default.
        split: Which tasks.
        seed: Seed of the tasks: the same seed gives every model the same tasks.
        json: Write the figures to this file too.
    """
    for name, value, least in (("tasks", tasks, 1), ("closed-loop-tasks", closed_loop_tasks, 0), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"--{name} is {value}, but at least {least} is wanted")
    if (path / MANIFEST).is_file():
        model = AdaptiveModel.load(path)
        manifest = model.manifest
        adapt: Adapt = model.adapted
        source, fields, method, shots = (
            manifest.name,
            (manifest.inputs, manifest.outputs),
            manifest.method,
            manifest.shots,
        )
    else:
        adapt, source, fields, method, shots = _open_checkpoint(path)
    loaded = _family(family, source, fields)
    if closed_loop_tasks and not isinstance(loaded, ClosedLoopFamily):
        raise FamilyError(f"family '{loaded.name}' has no closed loop; leave --closed-loop-tasks out")

    scores = score(loaded, adapt, np.random.default_rng(seed), tasks=tasks, shots=shots, split=split)
    figures: dict[str, Any] = {
        "path": str(path),
        "family": loaded.name,
        "method": method,
        "split": split,
        "seed": seed,
        "tasks": tasks,
        "shots": shots,
    }
    means = {f"error {name}": mean_and_half_width(values) for name, values in scores.sets.items()}
    means["error orbit"] = mean_and_half_width(scores.orbit)
    if not np.isnan(scores.equivariance).all():
        means["equivariance error"] = mean_and_half_width(scores.equivariance)
    if isinstance(loaded, ClosedLoopFamily) and closed_loop_tasks:
        for who, driver in (("adapted", adapt), ("reference", None)):
            driven = loaded.evaluate(driver, np.random.default_rng(seed), closed_loop_tasks, split)
            means[f"{driven.metric} [{driven.unit}], {who}"] = mean_and_half_width(driven.values)
    rows = {name: f"{mean:.4g} ± {half:.2g}" for name, (mean, half) in means.items()}
    print_rows({"model": f"{path} ({method})", "tasks": f"{tasks} of {loaded.name}, {split}, {shots} shots"} | rows)
    if json:
        write_json(json, figures | {name: _measured(mean, half) for name, (mean, half) in means.items()})
    return 0


def mean_and_half_width(values: NDArray[np.float64]) -> tuple[float, float]:
    """The mean of `(tasks,)` and half its 95 % confidence interval, normal; NaN for one task."""
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(half)


def _measured(mean: float, half_width: float) -> dict[str, float | None]:
    # JSON has no NaN, which the half-width of one task is
    return {key: x if math.isfinite(x) else None for key, x in (("mean", mean), ("half_width", half_width))}


def _open_checkpoint(path: Path) -> tuple[Adapt, str, tuple[tuple[Field, ...], ...], str, int]:
    import torch  # a bundle is scored without it

    from msr_runtime.meta.checkpoint import load_checkpoint
    from msr_runtime.meta.predictor import torch_adapt

    torch.set_num_threads(1)
    found = load_checkpoint(path)
    config = found.config
    adapt = torch_adapt(found.learner, found.normalization)
    return adapt, config.family, (config.inputs, config.outputs), config.method, config.settings.shots


def _family(name: str | None, source: str, fields: tuple[tuple[Field, ...], ...]) -> TaskFamily:
    try:
        family = load_family(name or source)
    except FamilyError as error:
        if name:
            raise
        raise FamilyError(f"{error} Say with --family where the family '{source}' is.") from error
    if (family.inputs, family.outputs) != fields:
        raise FamilyError(
            f"family '{family.name}' has other fields than the model: it was trained on '{source}', or on an older "
            "version of this family"
        )
    return family
