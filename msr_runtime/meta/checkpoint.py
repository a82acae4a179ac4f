"""Checkpoints: one safetensors file that holds a learner whole, checked against its own digest. No pickle.

A run's folder has two of them: `last.safetensors`, with the outer optimiser's state, from which training resumes, and
`best.safetensors`, the learner that did best on held-out tasks, from which a bundle is exported.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from msr_runtime.errors import CheckpointError
from msr_runtime.files import write_atomically
from msr_runtime.meta.config import TrainConfig
from msr_runtime.meta.learner import Learner
from msr_runtime.meta.learners import learner_class
from msr_runtime.meta.normalization import Normalization
from msr_runtime.task import Group, answer_shape, sample_shape

LAST, BEST = "last.safetensors", "best.safetensors"
OPTIMIZER = "optimizer."
LEARNER = "learner."
INPUTS, OUTPUTS = "group.inputs", "group.outputs"


class Checkpoint(NamedTuple):
    """A checkpoint read back."""

    path: Path
    config: TrainConfig
    learner: Learner
    normalization: Normalization
    step: int
    """Outer steps taken."""
    best: float
    """The lowest validation loss so far, normalised units; infinity before the first."""
    optimizer: dict[str, Tensor]
    """The outer optimiser's state by `index.key`; empty in the best checkpoint."""
    digest: str
    """sha256 over the configuration and every tensor."""


def save_checkpoint(
    path: Path,
    *,
    config: TrainConfig,
    learner: Learner,
    normalization: Normalization,
    step: int,
    best: float,
    optimizer: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint beside `path` and rename it, so that `path` is always whole."""
    tensors = {LEARNER + name: tensor.detach().cpu().contiguous() for name, tensor in learner.state_dict().items()}
    if learner.group is not None:
        matrices = {INPUTS: learner.group.inputs, OUTPUTS: learner.group.outputs}
        tensors |= {name: torch.tensor(matrix) for name, matrix in matrices.items()}  # copies: both may be one array
    tensors |= {OPTIMIZER + name: tensor.detach().cpu().contiguous() for name, tensor in (optimizer or {}).items()}
    header = {
        "config": config.model_dump_json(),
        "normalization": normalization.model_dump_json(),
        "state": json.dumps({"step": step, "best": best}),
    }
    if learner.group is not None:
        header["group"] = learner.group.name
    header["sha256"] = _digest(header, tensors)
    write_atomically(path, save(tensors, header))


def load_checkpoint(path: Path, learner: type[Learner] | None = None) -> Checkpoint:
    """Read a checkpoint and rebuild its learner.

    Args:
        path: The file, or a run's folder, whose best checkpoint is then taken.
        learner: The class of a learner of your own; the built-in one named in the checkpoint otherwise.

    Returns:
        The checkpoint, its learner in evaluation mode.

    Raises:
        CheckpointError: the file is missing, is not a checkpoint, was changed or does not fit the learner.

    """
    path = Path(path)
    if path.is_dir():
        path = path / BEST
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}; name a run's folder or a .safetensors file of one")
    header, tensors = _read(path)
    wanted = header.pop("sha256", None)
    digest = _digest(header, tensors)
    if wanted != digest:
        raise CheckpointError(
            f"checkpoint {path} has sha256 {digest[:12]}… but was written with {str(wanted)[:12]}…: it was changed or "
            "damaged after it was written; copy it again or train anew"
        )
    try:
        config = TrainConfig.model_validate_json(header["config"])
        normalization = Normalization.model_validate_json(header["normalization"])
        state: dict[str, Any] = json.loads(header["state"])
        group = None
        if "group" in header:
            group = Group(header["group"], tensors[INPUTS].numpy(), tensors[OUTPUTS].numpy())
    except (KeyError, ValidationError, json.JSONDecodeError) as error:
        raise CheckpointError(f"checkpoint {path} was written by another version of this program: {error}") from error
    model = build_learner(config, learner, group)
    try:
        model.load_state_dict({k.removeprefix(LEARNER): v for k, v in tensors.items() if k.startswith(LEARNER)})
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {path} does not fit the learner '{config.method}': {error}") from error
    model.eval()
    optimizer = {k.removeprefix(OPTIMIZER): v for k, v in tensors.items() if k.startswith(OPTIMIZER)}
    return Checkpoint(path, config, model, normalization, state["step"], state["best"], optimizer, digest)


def build_learner(config: TrainConfig, learner: type[Learner] | None = None, group: Group | None = None) -> Learner:
    """Build the learner that a configuration describes, freshly initialised from its seed.

    `group` is handed to learners of the form `equivariant`, and their checkpoints hold it: no simulator is needed for
    one to be read back.
    """
    torch.manual_seed(config.seed)
    chosen = learner or learner_class(config.method)
    outputs = answer_shape(config.outputs, config.loss)
    known = {"group": group} if config.learner.form == "equivariant" else {}
    return chosen(config.learner, sample_shape(config.inputs), outputs, config.loss, **known)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged or no checkpoint at all: {error}") from error


def _digest(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(header):
        sha.update(f"{name}={header[name]}\n".encode())
    for name in sorted(tensors):
        array = tensors[name].numpy()
        sha.update(f"{name}{array.dtype}{array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
