"""`msr evaluate`: errors on new tasks, and in the closed loop if the family has one."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from numpy.typing import NDArray

from msr_runtime.adaptation.backend import Engine
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.bundle.manifest import MANIFEST
from msr_runtime.cli.families import family_of
from msr_runtime.cli.output import JsonPath, TrustedKeys, option, print_rows, require_folder, write_json
from msr_runtime.cli.programs import MethodOfCheckpoint, Programs, load_own
from msr_runtime.errors import FamilyError, InputError
from msr_runtime.families import EpisodicFamily
from msr_runtime.meta.evaluation.calibration import INTERVAL, AdaptSurely, PredictSurely, calibrate
from msr_runtime.meta.evaluation.floor_methods import floors
from msr_runtime.meta.evaluation.scores import Scores, score_all
from msr_runtime.normalization import Normalization
from msr_runtime.task import Adapt, Array, ClosedLoopFamily, Field, Split, TaskFamily, fields_agree

_NETWORK = "the network"
_NONE = Programs()
_STREAM = (0, 2)
"""What follows --seed in the seeds of all draws: no stream of a training with this seed is the same."""


def evaluate(
    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BUNDLE|RUN|CHECKPOINT")],
    /,
    family: Annotated[str | None, option("FAMILY", "the family that the model names, if it is installed")] = None,
    tasks: Annotated[int, tyro.conf.arg(metavar="N")] = 100,
    closed_loop_tasks: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    split: Split = "test",
    seed: int = 0,
    json: JsonPath = None,
    key: TrustedKeys = (),
    engine: Engine = "onnx",
    learner: Programs = _NONE,
    method: MethodOfCheckpoint = None,
) -> int:
    """Adapt to new tasks, one by one, and print the errors on their query sets.

    Each figure is the mean over the tasks and half of its 95 % confidence interval.

    An error is the mean squared error over the mean square of y: 1 is the error of always giving zero.

    "Over variance" is the same error over the variance of y: 1 is the error of always giving the mean.

    For labels, an error is the share of wrong labels.

    A filter also predicts how large its errors are. Two figures say whether it is right:
    - the share of answers over the orbit that lie in its 90 % intervals
    - its squared errors over those that it expected: 1 is right, below 1 it is too cautious

    Below the network are the errors of simple methods without meta-learning, on the same tasks.

    Args:
        path: The folder of a bundle, the folder of a run or a checkpoint file.
        family: The task family: a built-in name, module:attribute, file.py:attribute, file.npz or file.yaml.
            Needed for a family of your own: it is a program, and none is run only because a file names it.
        tasks: Number of tasks to adapt to.
        closed_loop_tasks: Number of tasks in which the adapted model also drives the simulated robot.
        split: The split from which the tasks are drawn.
        seed: Seed of the tasks. With the same seed, every model gets the same tasks.
        json: Write the figures to this file too.
        key: Public keys (Ed25519). The bundle must be signed by one of them.
        engine: What computes: ONNX Runtime, or the bundle's native code (`msr compile`), a program to trust.
        learner: A network or rule of your own, on which the run was trained. A checkpoint never runs what it names, so
            name it again. A bundle needs none.
        method: The method of the run, if it is one of your own: name it again too.
    """
    require_folder(json)
    for name, value, least in (("tasks", tasks, 1), ("closed-loop-tasks", closed_loop_tasks, 0), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"--{name} is {value}, but at least {least} is wanted")
    bundle = (path / MANIFEST).is_file()
    if key and not bundle:
        raise InputError(f"--key is given, but '{path}' is no bundle, and only bundles are signed; leave --key out")
    if engine != "onnx" and not bundle:
        raise InputError(
            f"--engine is {engine}, but '{path}' is no bundle, and torch runs all else; leave --engine out"
        )
    model = _open_bundle(path, key, engine) if bundle else _open_checkpoint(path, learner, method)
    loaded = _family(path, family, model.source, model.fields)
    if closed_loop_tasks and not isinstance(loaded, ClosedLoopFamily):
        raise FamilyError(
            f"family '{loaded.name}' has no closed loop, but --closed-loop-tasks is {closed_loop_tasks}; leave it out"
        )

    if bundle and isinstance(loaded, EpisodicFamily):  # a bundle counts all images of a support set
        model = model._replace(shots=max(1, model.shots // loaded.ways))
    methods = {_NETWORK: model.adapt, "no adaptation": model.unadapted} | floors(loaded, model.normalization)
    scored = score_all(loaded, methods, _rng(seed), tasks=tasks, shots=model.shots, split=split)
    figures: dict[str, Any] = {
        "path": str(path),
        "family": loaded.name,
        "method": model.method,
        "split": split,
        "seed": seed,
        "tasks": tasks,
        "shots": model.shots,
    }
    scores = scored.pop(_NETWORK)
    means = {f"error {name}": mean_and_half_width(values) for name, values in _errors(scores).items()}
    if not np.isnan(scores.equivariance).all():
        means["equivariance error"] = mean_and_half_width(scores.equivariance)
    if model.adapt_surely is not None:
        found = calibrate(loaded, model.adapt_surely, _rng(seed), tasks=tasks, shots=model.shots, split=split)
        means[f"{100 * INTERVAL:.0f} % intervals hold"] = mean_and_half_width(found.held)
        means["normalized innovation squared"] = mean_and_half_width(found.nis)
    if isinstance(loaded, ClosedLoopFamily) and closed_loop_tasks:
        drivers = (("adapted", model.adapt), ("no adaptation", model.unadapted), ("reference", None))
        for who, driver in drivers:
            driven = loaded.evaluate(driver, _rng(seed), closed_loop_tasks, split)
            means[f"{driven.metric} [{driven.unit}], {who}"] = mean_and_half_width(driven.values)
    rows = {name: f"{mean:.4g} ± {half:.2g}" for name, (mean, half) in means.items()}
    beside = {floor: _in_words(found) for floor, found in scored.items()}
    better = {"note": words} if (words := _what_is_better(scores, scored)) else {}
    shown = {
        "model": f"{path} ({model.method})",
        "tasks": f"{tasks} of {loaded.name}, {split}, {model.shots} shots",
    }
    print_rows(shown | rows | beside | better)
    if json:
        for floor, found in scored.items():
            means |= {f"error {name}, {floor}": mean_and_half_width(values) for name, values in _errors(found).items()}
        write_json(json, figures | {name: _measured(mean, half) for name, (mean, half) in means.items()})
    return 0


def _errors(scores: Scores) -> dict[str, NDArray[np.float64]]:
    """All errors of one method, by name, `(tasks,)` each."""
    over_variance = {f"{name} over variance": values for name, values in scores.over_variance.items()}
    return {**scores.sets, **over_variance, "orbit": scores.orbit}


def _in_words(scores: Scores) -> str:
    words = ", ".join(f"{name} {mean:.3g}" for name, mean in _named(scores).items())
    over_variance = ", ".join(f"{values.mean():.3g}" for values in scores.over_variance.values())
    return f"{words}; over variance {over_variance}" if over_variance else words


def _what_is_better(network: Scores, others: Mapping[str, Scores]) -> str:
    """Name the floors that are below the network. Empty if there is none, as there should not be."""
    found = [
        f"'{floor}' on {' and '.join(better)}"
        for floor, scores in others.items()
        if (better := [name for name in _named(network) if _named(scores)[name] < _named(network)[name]])
    ]
    return f"the network is worse than {', '.join(found)}: it has learned too little there" if found else ""


def _named(scores: Scores) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in {**scores.sets, "orbit": scores.orbit}.items()}


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng((seed, *_STREAM))


def mean_and_half_width(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean of `(tasks,)` and half of its 95 % confidence interval.

    The interval assumes a normal distribution of the mean. For one task it is NaN.
    """
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(half)


def _measured(mean: float, half_width: float) -> dict[str, float | None]:
    # the half-width for one task is NaN, which JSON does not have
    return {key: x if math.isfinite(x) else None for key, x in (("mean", mean), ("half_width", half_width))}


class _Model(NamedTuple):
    adapt: Adapt
    unadapted: Adapt
    normalization: Normalization
    source: str
    fields: tuple[tuple[Field, ...], ...]
    method: str
    shots: int
    adapt_surely: AdaptSurely | None
    """None if the model does not say how sure it is."""


def _open_bundle(path: Path, key: TrustedKeys, engine: Engine) -> _Model:
    model = AdaptiveModel.load(path, trusted_keys=key or None, engine=engine)
    about = model.manifest
    unadapted: Adapt = lambda *_: model.predict  # noqa: E731
    fields = about.inputs, about.outputs

    def adapt_surely(support_x: Array, support_y: Array) -> PredictSurely:
        own = model.fork()
        own.adapt(support_x, support_y, guard=UNLIMITED)

        def predict(x: Array) -> tuple[Array, Array]:
            found = own.predict(x, std=True)
            return found.y, found.total

        return predict

    surely = None if about.recursion is None else adapt_surely
    return _Model(model.adapted, unadapted, about.normalization, about.name, fields, about.method, about.shots, surely)


def _open_checkpoint(path: Path, learner: Programs, method: str | None) -> _Model:
    import torch  # imported here, because a bundle is scored without torch

    from msr_runtime.meta.evaluation.predictor import torch_adapt, torch_adapt_surely, torch_unadapted

    torch.set_num_threads(1)
    found = load_own(path, learner, method)
    config, network = found.config, (found.learner, found.normalization)
    fields = config.inputs, config.outputs
    return _Model(
        torch_adapt(*network),
        torch_unadapted(*network),
        found.normalization,
        config.family,
        fields,
        config.method,
        config.settings.shots,
        torch_adapt_surely(*network),
    )


def _family(path: Path, name: str | None, source: str, fields: tuple[tuple[Field, ...], ...]) -> TaskFamily:
    family = family_of(path, name, source)
    if not all(map(fields_agree, (family.inputs, family.outputs), fields)):
        raise FamilyError(
            f"family '{family.name}' has other fields than the model, which was trained on '{source}'; name this "
            "family with --family, or train again if its fields have changed"
        )
    return family
