"""Checkpoints. A checkpoint is one safetensors file that holds a complete learner and its own sha256. No pickle.

A run's folder has two checkpoints:

* `last.safetensors` also holds the state of the outer optimizer. Training resumes from it.
* `best.safetensors` holds the learner with the lowest loss on the validation tasks. A bundle is exported from it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, NonNegativeInt, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from msr_runtime.errors import CheckpointError, MsrError
from msr_runtime.files import local_path, sort_metadata, write_atomically
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import LEARNERS, learner_class
from msr_runtime.meta.training.checkpoint_fit import load_tensors, oversize
from msr_runtime.meta.training.config import TrainConfig, first_fault
from msr_runtime.normalization import Normalization
from msr_runtime.task import Group, output_shape, sample_shape

LAST, BEST = "last.safetensors", "best.safetensors"
"""Names of the two checkpoints in a run's folder."""
OPTIMIZER = "optimizer."
"""Prefix of the names of the outer optimizer's tensors in the file."""
LEARNER = "learner."
"""Prefix of the names of the learner's tensors in the file."""
INPUTS, OUTPUTS = "group.inputs", "group.outputs"
"""Names of the group's matrices in the file."""


class _State(BaseModel):
    """The entry `state` of the file."""

    step: NonNegativeInt
    best: float


class Checkpoint(NamedTuple):
    """A checkpoint that was read from its file."""

    path: Path
    """The file."""
    config: TrainConfig
    """The configuration of the run that wrote it."""
    learner: Learner
    """The learner, in evaluation mode."""
    normalization: Normalization
    """Center and scale of the inputs and outputs."""
    step: int
    """Outer steps taken."""
    best: float
    """Lowest validation loss so far, in normalized units. Infinity before the first finite one."""
    optimizer: dict[str, Tensor]
    """State of the outer optimizer, by `index.key`. Empty in the best checkpoint."""
    digest: str
    """sha256 (hex) over the configuration, the normalization and every tensor."""


def save_checkpoint(
    path: Path,
    *,
    config: TrainConfig,
    learner: Learner,
    normalization: Normalization,
    step: int,
    best: float,
    optimizer: Mapping[str, Tensor] | None = None,
) -> str:
    """Write a checkpoint. Checkpoints of equal content have equal bytes.

    The file is written under another name and then renamed. A process that is killed meanwhile leaves the old file.

    Args:
        path: The file to write.
        config: The configuration of the run.
        learner: The learner to store. If it has a group, the file holds the group's matrices too.
        normalization: Center and scale of the inputs and outputs.
        step: Outer steps taken.
        best: Lowest validation loss so far, in normalized units.
        optimizer: State of the outer optimizer, by `index.key`. None leaves it out.

    Returns:
        The checkpoint's digest, see `Checkpoint.digest`.

    Raises:
        OSError: The file cannot be written, for example because the disk is full. The old file stays.

    """
    tensors = {LEARNER + name: tensor.detach().cpu().contiguous() for name, tensor in learner.state_dict().items()}
    if learner.group is not None:
        matrices = {INPUTS: learner.group.inputs, OUTPUTS: learner.group.outputs}
        # copies: inputs and outputs may be one and the same array, and safetensors refuses tensors that share memory
        tensors |= {name: torch.tensor(matrix) for name, matrix in matrices.items()}
    tensors |= {OPTIMIZER + name: tensor.detach().cpu().contiguous() for name, tensor in (optimizer or {}).items()}
    header = {
        "config": config.model_dump_json(),
        "normalization": normalization.model_dump_json(),
        "state": json.dumps({"step": step, "best": best}),
    }
    if learner.group is not None:
        header["group"] = learner.group.name
    header["sha256"] = digest = _digest(header, tensors)
    write_atomically(path, sort_metadata(save(tensors, header)))
    return digest


def stored_digest(path: Path) -> str | None:
    """Return the digest that a checkpoint says it has, without reading its tensors. None if there is no file.

    Raises:
        CheckpointError: The file is not a checkpoint.

    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("sha256")
    except _UNREADABLE as error:
        raise damaged(path, error) from error


def load_checkpoint(path: Path, learner: type[Learner] | None = None) -> Checkpoint:
    """Read a checkpoint and rebuild its learner.

    Args:
        path: The file, or the folder of a run. From a folder, its best checkpoint is read.
        learner: The class of your own learner. Without it, the built-in learner named in the checkpoint.

    Returns:
        The checkpoint. Its learner is in evaluation mode.

    Raises:
        CheckpointError: The file is missing, is not a checkpoint, was changed, was written by another version of this
            program, or does not fit the learner.

    Example:
        >>> from msr_envs import load_family
        >>> from msr_runtime.meta import LearnerConfig, TrainConfig, TrainSettings, load_checkpoint, train
        >>> settings = TrainSettings(steps=2, training_tasks=16, augment=False)
        >>> config = TrainConfig.of(load_family("ring-nav"), "msr", LearnerConfig(width=8, filters=4), settings)
        >>> train(load_family("ring-nav"), config, folder, progress=False).finished
        True
        >>> checkpoint = load_checkpoint(folder)  # the best one; folder / "last.safetensors" is the last one
        >>> checkpoint.step, checkpoint.config.method
        (2, 'msr')

    """
    path = local_path(path)
    if path.is_dir():
        path = path / BEST
    if not path.is_file():
        raise CheckpointError(
            f"run {path.parent} has no {BEST} yet, because it stopped before its first validation; go on with "
            f"--resume, or name {path.parent / LAST}"
            if path.name == BEST and (path.parent / LAST).is_file()
            else f"there is no checkpoint at {path}; give the folder of a run, or one of the .safetensors files in it"
        )
    header, tensors = _read(path)
    wanted = header.pop("sha256", None)
    digest = _digest(header, tensors)
    if wanted != digest:
        raise CheckpointError(
            f"checkpoint {path} has sha256 {digest[:12]}… but was written with {str(wanted)[:12]}…: the file was "
            "changed or damaged after it was written; copy it again, or train again"
        )
    try:
        config = TrainConfig.model_validate_json(header["config"])
        normalization = Normalization.model_validate_json(header["normalization"])
        state = _State.model_validate_json(header["state"])
        group = None
        if "group" in header:
            group = Group(header["group"], tensors[INPUTS].numpy(), tensors[OUTPUTS].numpy())
    except (KeyError, ValidationError) as error:
        wrong = first_fault(error) if isinstance(error, ValidationError) else f"{error} is missing"
        raise CheckpointError(
            f"checkpoint {path} does not have the entries that this version reads: {wrong}; the likely cause is that "
            "another version of this program wrote it: read it with that version, or train again"
        ) from error
    own = {name.removeprefix(LEARNER): tensor for name, tensor in tensors.items() if name.startswith(LEARNER)}
    shapes = sample_shape(config.inputs), output_shape(config.outputs, config.loss)
    built_in = learner is None and config.method in LEARNERS
    wrong = normalization.unfit(*shapes) or (oversize(config, own) if built_in else None)
    if wrong is not None:
        raise damaged(path, wrong)
    try:
        model = build_learner(config, learner, group)
    except MsrError as error:
        raise CheckpointError(f"checkpoint {path} describes a learner that cannot be built: {error}") from error
    if (wrong := load_tensors(model, own)) is not None:
        raise CheckpointError(
            f"checkpoint {path} does not fit the learner '{config.method}': {wrong}; the likely cause is that a "
            "learner of another class wrote it: pass that class as `learner`"
        )
    model.eval()
    optimizer = {k.removeprefix(OPTIMIZER): v for k, v in tensors.items() if k.startswith(OPTIMIZER)}
    return Checkpoint(path, config, model, normalization, state.step, state.best, optimizer, digest)


def build_learner(config: TrainConfig, learner: type[Learner] | None = None, group: Group | None = None) -> Learner:
    """Build the learner that a configuration describes, with initial weights from the configuration's seed.

    Args:
        config: The configuration.
        learner: The class of your own learner. Without it, the built-in learner named in the configuration.
        group: The family's group. Only learners of the form `equivariant` receive it. Their checkpoints hold it, so
            that a checkpoint can be read without the family.

    Returns:
        The learner, in training mode.

    """
    torch.manual_seed(config.seed)
    chosen = learner or learner_class(config.method)
    outputs = output_shape(config.outputs, config.loss)
    known = {"group": group} if config.learner.form == "equivariant" else {}
    return chosen(config.learner, sample_shape(config.inputs), outputs, config.loss, **known)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except _UNREADABLE as error:
        raise damaged(path, error) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise damaged(path, f"its tensor '{name}' has dtype {tensor.dtype}, which no learner has")
    return header, tensors


_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, RuntimeError)
"""What safetensors and torch raise for a file that is not one of theirs."""
_DTYPES = (torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)


def damaged(path: Path, why: object) -> CheckpointError:
    """Return the error of a file that is not a whole checkpoint."""
    return CheckpointError(
        f"checkpoint {path} is damaged, or is not a checkpoint: {why}; copy it again, or train again"
    )


def _digest(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    # sorted: the digest must not depend on the order in which the file lists its entries
    sha = hashlib.sha256()
    for name in sorted(header):
        sha.update(f"{name}={header[name]}\n".encode())
    for name in sorted(tensors):
        array = tensors[name].numpy()
        sha.update(f"{name}{array.dtype}{array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
