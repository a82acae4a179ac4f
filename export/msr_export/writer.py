"""From a learner to a bundle on disk: freeze, prove, describe, write."""

from importlib import metadata
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from msr_export.freeze import Frozen, flatten, folded_name, freeze
from msr_export.lowering import IR_VERSION, OLDEST_ONNXRUNTIME, OPSET
from msr_export.parity import check_golden, check_parity
from msr_runtime.bundle import ADAPT, GOLDEN, LOSS, PREDICT, START, Golden, encode_start, write_bundle
from msr_runtime.errors import ExportError
from msr_runtime.manifest import Manifest, Normalisation, Provenance, Weight
from msr_runtime.meta.learner import Learner
from msr_runtime.meta.normalization import Normalization
from msr_runtime.meta.predictor import torch_adapt, torch_unadapted
from msr_runtime.meta.rules import GaussNewton, GradientSteps
from msr_runtime.meta.structure import equivariance_error
from msr_runtime.task import SymmetricFamily, TaskFamily, answer_shape, sample_shape

_PACKAGES = ("msr-runtime", "torch", "onnx", "onnxscript", "numpy")
_SAMPLES = 64
"""Query samples of a query set for the golden example and for the equivariance error."""


def export_bundle(
    learner: Learner,
    normalization: Normalization,
    out: str | PathLike[str],
    *,
    family: TaskFamily,
    shots: int,
    seed: int,
    config_digest: str,
) -> Path:
    """Freeze `learner` into the bundle `out`, proved equal to torch; nothing is left on disk if it is not.

    Args:
        learner: A meta-trained learner, float32 on the CPU and in evaluation mode.
        normalization: The scaling that it was trained under.
        out: The bundle's folder; an older bundle there is replaced.
        family: The task family, of which the golden example is a validation task.
        shots: Support samples of a task in meta-training.
        seed: The seed of the meta-training; the export draws from it too, so that it gives the same bytes again.
        config_digest: sha256 of the checkpoint or of its configuration.

    Returns:
        The bundle's folder.

    Raises:
        ParityError: ONNX Runtime and torch disagree by more than 1e-5.
        ExportError: the learner cannot be written in ONNX, or does not fit the family.
        BundleError: `out` holds something that is not a bundle.

    """
    shapes = sample_shape(family.inputs), answer_shape(family.outputs, family.loss)
    if (learner.inputs, learner.outputs) != shapes:
        raise ExportError(
            f"the learner maps samples of shape {learner.inputs} to {learner.outputs}, but family '{family.name}' has "
            f"{shapes[0]} and {shapes[1]}; the checkpoint belongs to another family"
        )
    with torch.random.fork_rng(devices=[]):  # the examples of the tracing are drawn from torch's own generator
        torch.manual_seed(seed)
        frozen = freeze(learner, normalization)
    parity = check_parity(learner, normalization, frozen, seed)
    golden = _golden(learner, normalization, family, shots, seed)
    check_golden(frozen, golden)
    group = family.group() if isinstance(family, SymmetricFamily) else None
    predict = torch_unadapted(learner, normalization)(golden.support_x, golden.support_y)
    manifest = Manifest(
        name=family.name,
        method=_method(learner),
        inputs=family.inputs,
        outputs=family.outputs,
        normalisation=Normalisation(**normalization.model_dump()),
        loss=family.loss,
        filter_parameters=frozen.v0.size,
        weights=tuple(Weight(name=name, shape=weight.shape) for name, weight in frozen.weights.items()),
        shots=shots,
        inner_steps=_steps(learner),
        rule="class-means" if learner.rule is None else learner.config.rule,
        learned=_learned(learner),
        rate_hz=getattr(family, "rate_hz", None),
        opset=OPSET,
        ir_version=IR_VERSION,
        oldest_onnxruntime=OLDEST_ONNXRUNTIME,
        group=None if group is None else group.name,
        equivariance_error=None if group is None else equivariance_error(predict, group, golden.x),
        parity=parity,
        provenance=Provenance(config_digest=config_digest, versions=_versions(), seed=seed),
    )
    return write_bundle(out, manifest, _files(frozen, golden)).path


def _files(frozen: Frozen, golden: Golden) -> dict[str, bytes]:
    return {
        PREDICT: frozen.predict,
        ADAPT: frozen.adapt,
        LOSS: frozen.loss,
        START: encode_start({"v": frozen.v0, **frozen.weights}),
        GOLDEN: golden.to_bytes(),
    }


def _golden(learner: Learner, normalization: Normalization, family: TaskFamily, shots: int, seed: int) -> Golden:
    """One real adaptation in torch: a validation task's support and queries."""
    rng = np.random.default_rng(seed)
    batch = family.sample(rng, 1, shots, _SAMPLES * len(family.query_sets), "validation")
    support_x, support_y, x = batch.support_x[0], batch.support_y[0], batch.query_x[0]
    normal_x, normal_y = normalization.normalize(support_x, support_y)
    support = torch.from_numpy(normal_x), torch.from_numpy(normal_y)
    adapted = learner.adapt(*support)
    losses = [learner.support_loss(tensors, *support).item() for tensors in (learner.start(), adapted)]
    return Golden(
        support_x=support_x,
        support_y=support_y,
        x=x,
        v=flatten(learner, adapted).numpy(),
        y=torch_adapt(learner, normalization)(support_x, support_y)(x),
        y0=torch_unadapted(learner, normalization)(support_x, support_y)(x),
        losses=np.array(losses, np.float32),
        steps=_steps(learner),
    )


def _steps(learner: Learner) -> int:
    return 1 if learner.rule is None else learner.rule.steps


def _method(learner: Learner) -> str:
    """The method's name, the form of U where there is one, and the network where it is not the usual one."""
    config = learner.config
    parts = [learner.name, config.form] if config.reparameterized else [learner.name]
    parts += [config.network] if config.network != "mlp" else []
    return "-".join(parts)


def _learned(learner: Learner) -> dict[str, tuple[float, ...]]:
    """The numbers of the learner's rule: rates by weight, or a damping a step and a scale by weight."""
    rule = learner.rule
    if rule is None:
        return {}
    if isinstance(rule, GradientSteps):
        rows = [rule.rates(index) for index in range(rule.own_steps)]
        learned = {folded_name(name): torch.cat([row[name].flatten() for row in rows]) for name in rule.names}
    else:
        assert isinstance(rule, GaussNewton)
        learned = {"damping": torch.stack([rule.damping(index) for index in range(rule.steps)])}
        learned |= {f"scale of {folded_name(name)}": scale.flatten() for name, scale in rule.scales().items()}
    return {name: tuple(value.tolist()) for name, value in learned.items()}


def _versions() -> dict[str, str]:
    installed = {distribution.name.lower(): distribution.version for distribution in metadata.distributions()}
    runtimes = ("onnxruntime", "onnxruntime-gpu")
    return {name: installed[name] for name in (*_PACKAGES, *runtimes) if name in installed}
