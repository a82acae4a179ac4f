"""From a learner to a bundle on disk: freeze it, compare it with torch, describe it, write it."""

from importlib import metadata
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from msr_export.centering import centered
from msr_export.compact import compact
from msr_export.cost import choose_precision
from msr_export.familiarity import measure_familiarity
from msr_export.folding import folded_name
from msr_export.freeze import Frozen, freeze
from msr_export.golden import draw_golden
from msr_export.lowering import IR_VERSION, OLDEST_ONNXRUNTIME, OPSET
from msr_export.parity import check_golden, check_parity
from msr_export.recursion_parity import UPDATES, check_recursion
from msr_export.rejection import measure_rejection
from msr_export.rounding import row_lengths
from msr_export.streams import draw_streams
from msr_export.structure import choose_structure
from msr_export.validation import TASKS, measure_validation
from msr_runtime.bundle.manifest import Manifest, Parity, Provenance, Recursion, TrainingSamples, Weight
from msr_runtime.bundle.rounding import Precision
from msr_runtime.bundle.store import (
    ADAPT,
    DEVIATION,
    GOLDEN,
    LOSS,
    PREDICT,
    SOLVE,
    START,
    STREAM,
    SUMS,
    UPDATE,
    Golden,
    encode_start,
    write_bundle,
)
from msr_runtime.bundle.stream import Stream
from msr_runtime.errors import ExportError
from msr_runtime.families import EpisodicFamily
from msr_runtime.meta.evaluation.predictor import torch_unadapted
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.gauss_newton import GaussNewton
from msr_runtime.meta.rules.gradient import GradientSteps
from msr_runtime.meta.rules.recursive import Recursive
from msr_runtime.meta.symmetry.finding import known_group
from msr_runtime.meta.symmetry.measures import equivariance_error
from msr_runtime.meta.training.checkpoint import Checkpoint
from msr_runtime.meta.training.config import TrainSettings
from msr_runtime.meta.training.disturbance import shot_counts
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array, TaskFamily, output_shape, sample_shape

_PACKAGES = ("msr-runtime", "torch", "onnx", "onnxscript", "numpy")
_TASKS = 32
"""Validation tasks whose support inputs the parity check uses."""
_MORE = 36
"""Updates beyond those that fill the ring of rows, at least."""
_INPUT_LIMIT = 10.0
"""`Manifest.input_limit`: beyond a sensor that works, and beyond drift, but below the wrong unit of most fields."""


def export_checkpoint(
    checkpoint: Checkpoint,
    out: str | PathLike[str],
    *,
    family: TaskFamily,
    validation_tasks: int = TASKS,
    precision: Precision | None = None,
    structure: bool = True,
) -> Path:
    """Freeze a loaded checkpoint into the bundle `out`. See `export_bundle`.

    Args:
        checkpoint: The result of `load_checkpoint`.
        out: The bundle's folder. An older bundle there is replaced.
        family: The task family on which the checkpoint was trained.
        validation_tasks: As in `export_bundle`.
        precision: As in `export_bundle`.
        structure: As in `export_bundle`.

    Returns:
        The bundle's folder.

    Raises:
        ParityError: ONNX Runtime and torch disagree by more than 1e-5.
        ExportError: The learner cannot be written in ONNX, or does not fit the family.
        BundleError: `out` holds something that is not a bundle.

    Example:
        >>> from pathlib import Path
        >>> from msr_envs import load_family
        >>> from msr_export import export_checkpoint
        >>> from msr_runtime.meta import load_checkpoint
        >>> checkpoint = load_checkpoint(Path(bundle).parent)  # a run's folder
        >>> out = export_checkpoint(checkpoint, folder / "bundle", family=load_family("ring-nav"))
        >>> sorted(path.name for path in out.glob("*.onnx"))
        ['adapt.onnx', 'loss.onnx', 'predict.onnx', 'solve.onnx', 'sums.onnx']

    """
    return export_bundle(
        checkpoint.learner,
        checkpoint.normalization,
        out,
        family=family,
        shots=checkpoint.config.settings.shots,
        seed=checkpoint.config.seed,
        config_digest=checkpoint.digest,
        samples=_samples(checkpoint.config.settings),
        validation_tasks=validation_tasks,
        precision=precision,
        structure=structure,
    )


def export_bundle(
    learner: Learner,
    normalization: Normalization,
    out: str | PathLike[str],
    *,
    family: TaskFamily,
    shots: int,
    seed: int,
    config_digest: str,
    samples: TrainingSamples | None = None,
    validation_tasks: int = TASKS,
    precision: Precision | None = None,
    structure: bool = True,
) -> Path:
    """Freeze `learner` into the bundle `out`, after a proof that it equals torch. A failed proof leaves nothing on
    disk.

    Args:
        learner: A meta-trained learner, float32, on the CPU and in evaluation mode.
        normalization: The normalization under which it was trained.
        out: The bundle's folder. An older bundle there is replaced.
        family: The task family. The golden example is one of its validation tasks.
        shots: Support samples per task in meta-training, as the family counts them.
        seed: The seed of the meta-training. The export draws from it too, so a second export gives the same bytes.
        config_digest: sha256 of the checkpoint or of its configuration.
        samples: What the samples of meta-training were like. A learner that was trained without augmentation has not
            learned the family's group, and its bundle names none, unless its form is `equivariant`.
        validation_tasks: Clean validation tasks to measure the robot's limits on (`Manifest.validation`). With fewer
            tasks the limits are narrower: more of the clean updates are refused.
        precision: How U and the layers that do not adapt are stored: they are rounded before anything else is done, so
            everything that is measured is that of the rounded learner. None takes float16 if that costs at most 0.1 %
            more error after adapting, on validation tasks, and float32 otherwise (`Manifest.rounding`).
        structure: Leave out rows and columns of U, before it is rounded, as long as the error after adapting grows by
            at most 2 % on validation tasks, with the shots of meta-training and with 64 (`Manifest.structure`). With
            fewer than 8 validation tasks U stays as it is. With the rule `recursive` every column stays, since its
            deviations would be too small without.

    Returns:
        The bundle's folder.

    Raises:
        ParityError: ONNX Runtime and torch disagree by more than 1e-5.
        ExportError: The learner cannot be written in ONNX, or does not fit the family; or a number is too far from zero
            for float32, which a training of an older version did not refuse.
        BundleError: `out` holds something that is not a bundle.

    """
    shapes = sample_shape(family.inputs), output_shape(family.outputs, family.loss)
    if (learner.inputs, learner.outputs) != shapes:
        raise ExportError(
            f"the learner maps samples of shape {learner.inputs} to {learner.outputs}, but family '{family.name}' has "
            f"{shapes[0]} and {shapes[1]}; most likely the checkpoint was trained on another family: pass that one"
        )
    if (far := normalization.far_from_zero(family.inputs, family.outputs)) is not None:
        raise ExportError(f"the learner cannot be exported: {far}, and train again")
    inputs = _inputs(family, shots, seed)
    learner, found = centered(learner, normalization, inputs), None
    if structure:
        learner, found = choose_structure(
            learner, normalization, family, shots=shots, seed=seed, tasks=validation_tasks
        )
    learner, rounding = choose_precision(
        learner, normalization, family, shots=shots, seed=seed, tasks=validation_tasks, asked=precision
    )
    with torch.random.fork_rng(devices=[]):  # the examples of the trace come from torch's global generator
        torch.manual_seed(seed)
        frozen = freeze(learner, normalization)
    if found or (rounding and rounding.precision != "float32"):
        frozen = compact(frozen, row_lengths(learner) if rounding and rounding.precision == "int8" else ())
    parity, stream = _check(learner, normalization, frozen, inputs, seed)
    golden = draw_golden(learner, normalization, family, shots, seed)
    check_golden(frozen, normalization, golden)
    symmetric = samples is None or samples.augmented or learner.config.form == "equivariant"
    group = known_group(family) if symmetric else None
    predict = torch_unadapted(learner, normalization)(golden.support_x, golden.support_y)
    manifest = Manifest(
        name=family.name,
        method=_method(learner),
        inputs=family.inputs,
        outputs=family.outputs,
        normalization=normalization,
        loss=family.loss,
        filter_parameters=frozen.v0.size,
        weights=tuple(Weight(name=name, shape=weight.shape) for name, weight in frozen.weights.items()),
        shots=shots * (family.ways if isinstance(family, EpisodicFamily) else 1),
        inner_steps=golden.steps,
        rule=_rule(learner),
        learned=_learned(learner),
        recursion=_recursion(learner, getattr(family, "rate_hz", None)),
        input_limit=_INPUT_LIMIT,
        rate_hz=getattr(family, "rate_hz", None),
        opset=OPSET,
        ir_version=IR_VERSION,
        oldest_onnxruntime=OLDEST_ONNXRUNTIME,
        group=None if group is None else group.name,
        equivariance_error=None if group is None else equivariance_error(predict, group, golden.x),
        parity=parity,
        rounding=rounding,
        structure=found,
        validation=measure_validation(learner, normalization, family, shots=shots, seed=seed, tasks=validation_tasks),
        familiarity=measure_familiarity(
            learner,
            normalization,
            family,
            noise=samples.noise if samples else 0.0,
            seed=seed,
            tasks=validation_tasks,
        ),
        rejection=measure_rejection(
            learner,
            normalization,
            family,
            shots=shots,
            augmented=samples is None or samples.augmented,
            seed=seed,
            tasks=validation_tasks,
        ),
        provenance=Provenance(config_digest=config_digest, versions=_versions(), seed=seed, samples=samples),
    )
    return write_bundle(out, manifest, _files(frozen, golden, stream)).path


def _check(
    learner: Learner, normalization: Normalization, frozen: Frozen, inputs: Array, seed: int
) -> tuple[Parity, Stream | None]:
    """Compare the graphs with torch. With the rule `recursive`, also return the golden stream."""
    rule = learner.rule
    if not isinstance(rule, Recursive):
        return check_parity(learner, normalization, frozen, inputs, seed), None
    updates = max(UPDATES, rule.memory + _MORE)  # longer than the ring of rows, so that old rows are dropped
    golden, long = draw_streams(learner, normalization, rule, inputs, seed, (updates // 2, updates))
    return check_recursion(learner, normalization, frozen, long), golden


def _recursion(learner: Learner, rate_hz: float | None) -> Recursion | None:
    rule = learner.rule
    if not isinstance(rule, Recursive):
        return None
    tick = 1 / (rate_hz or 1.0)
    ticks = rule.time_constant()
    tau = None if ticks is None else ticks.item() * tick
    return Recursion(memory=rule.memory, relinearize=rule.relinearize, tick=tick, tau=tau, gate=rule.gate)


def _samples(settings: TrainSettings) -> TrainingSamples:
    return TrainingSamples(
        augmented=settings.augment,
        fewest_shots=shot_counts(settings)[0],
        noise=settings.noise,
        outliers=settings.outliers,
        outlier_size=settings.outlier_size,
    )


def _files(frozen: Frozen, golden: Golden, stream: Stream | None) -> dict[str, bytes]:
    """File name to content: the graphs, the start, the golden example and the golden stream."""
    recursion = frozen.recursion
    return {
        PREDICT: frozen.predict,
        LOSS: frozen.loss,
        **({UPDATE: recursion.update, DEVIATION: recursion.deviation} if recursion else {ADAPT: frozen.adapt}),
        **({STREAM: stream.to_bytes()} if stream else {}),
        START: encode_start({"v": frozen.v0, **frozen.weights}),
        GOLDEN: golden.to_bytes(),
        **({SUMS: frozen.sums, SOLVE: frozen.solve} if frozen.sums and frozen.solve else {}),
    }


def _inputs(family: TaskFamily, shots: int, seed: int) -> Array:
    """The support inputs of many validation tasks, `(samples, ...)` in raw units."""
    batch = family.sample(np.random.default_rng(seed), _TASKS, shots, len(family.query_sets), "validation")
    return batch.support_x.reshape(-1, *batch.support_x.shape[2:])


def _method(learner: Learner) -> str:
    """The method's name, plus the form of U if there is a U, plus the network if it is not the `mlp`.

    A network of your own is named without its file: a bundle says nothing of the folders of another machine.
    """
    config = learner.config
    parts = [learner.name, config.form] if config.reparameterized else [learner.name]
    parts += [config.network.rpartition(":")[2]] if config.network != "mlp" else []
    return "-".join(parts)


def _rule(learner: Learner) -> str:
    """The rule's name: the configured one, or that of its class for a rule of one's own."""
    if learner.rule is None:
        return "class-means"
    own = not isinstance(learner.rule, GradientSteps | GaussNewton | Recursive)
    return type(learner.rule).__name__ if own else str(learner.config.rule)


def _learned(learner: Learner) -> dict[str, tuple[float, ...]]:
    """The numbers that the learner's rule learned: rates by weight, or a damping per step and a scale by weight."""
    rule = learner.rule
    if rule is None:
        return {}
    if isinstance(rule, GradientSteps):
        rows = [rule.rates(index) for index in range(rule.own_steps)]
        learned = {folded_name(name): torch.cat([row[name].flatten() for row in rows]) for name in rule.names}
    elif isinstance(rule, Recursive):
        learned = {"noise": rule.noise(), "variance scale": rule.variance_scale.factors}
        learned |= {f"scale of {folded_name(name)}": scale.flatten() for name, scale in rule.scales().items()}
    elif isinstance(rule, GaussNewton):
        learned = {"damping": torch.stack([rule.damping(index) for index in range(rule.steps)])}
        learned |= {f"scale of {folded_name(name)}": scale.flatten() for name, scale in rule.scales().items()}
    else:
        learned = {name: parameter.flatten() for name, parameter in rule.named_parameters()}
    return {name: tuple(value.tolist()) for name, value in learned.items()}


def _versions() -> dict[str, str]:
    """The versions of the packages that made the bundle."""
    installed = {distribution.name.lower(): distribution.version for distribution in metadata.distributions()}
    runtimes = ("onnxruntime", "onnxruntime-gpu")
    return {name: installed[name] for name in (*_PACKAGES, *runtimes) if name in installed}
