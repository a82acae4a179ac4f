"""Whether a checkpoint's tensors are those of the learner that its configuration describes.

A file may come from a stranger. Its configuration can name a network that fills the memory of any machine, so its sizes
are compared with the tensors of the file before anything is built.
"""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from msr_runtime.errors import MsrError
from msr_runtime.meta.learners.config import FOUND
from msr_runtime.meta.learners.function_encoder import FunctionEncoder
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.networks.basis import basis_shape
from msr_runtime.meta.networks.registry import NETWORKS, make_network
from msr_runtime.meta.symmetry.grid import GridGroup
from msr_runtime.meta.training.config import TrainConfig
from msr_runtime.meta.training.memory import machine_memory
from msr_runtime.task import output_shape, sample_shape

_SLACK = 4
"""How many times the numbers in the file a learner may need by this count, which knows the methods only roughly."""
_LEAST = 10**4
"""Numbers that a learner may always need."""
_COUNTS = ("filters", "terms", "context", "inner_steps", "memory")
"""Options that say how much there is of something, and so how much memory or time a learner takes."""
_DENSE = ("msr", "maml-big")
"""Methods that make a symmetry matrix, whatever the option `reparameterized` says."""


def oversize(config: TrainConfig, tensors: Mapping[str, Tensor]) -> str | None:
    """Return why a learner cannot be in a file, or None if it can.

    Args:
        config: The configuration in the file. Its method is a built-in one, its network may be one of your own.
        tensors: The learner's tensors in the file, by name.

    """
    learner, held = config.learner, sum(tensor.numel() for tensor in tensors.values())
    most = _SLACK * held + _LEAST
    own = learner.network not in NETWORKS  # one's own network may have any number of layers
    if learner.depth > len(tensors) and not own:
        return f"its depth is {learner.depth:,}, but the file holds {len(tensors):,} tensors of a learner"
    sizes = {name: getattr(learner, name) or 0 for name in _COUNTS}
    for name, value in (*sizes.items(), ("width", max(learner.widths, default=0)), ("width", sum(learner.widths))):
        if value > most:
            return f"its {name} is {value:,}, but the file holds {held:,} numbers of a learner"
    inputs, outputs = sample_shape(config.inputs), output_shape(config.outputs, config.loss)
    if config.method == FunctionEncoder.name:
        outputs = basis_shape(outputs, learner.context)
        if outputs[0] > most:
            return f"its context is {learner.context:,}, but the file holds {held:,} numbers of a learner"
    try:
        # Tensors without memory: only their sizes are needed. torch warns where one's own loads its weights into them.
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            network = make_network(learner.network, inputs, outputs, learner.widths, bias=learner.bias)
    except MsrError as error:
        # One's own may need memory to be built, such as a pretrained one: then its widths alone are looked at.
        return None if own else str(error)
    weights = [parameter.numel() for parameter in network.parameters()]
    dense = learner.reparameterized or config.method in _DENSE
    # Two forms need fewer numbers than the weights that they make. These must fit into the memory.
    if not dense or learner.form in ("full", "kronecker"):
        columns = learner.filters if dense and learner.form == "full" else 1
        # each filter of orbit prototypes is used in every pose
        poses = 1 if learner.grid_group in (None, FOUND) else GridGroup.named(learner.grid_group).order
        if (needed := sum(size * min(size, columns) for size in weights) // poses) > most:
            return f"its network has {needed:,} numbers, but the file holds {held:,} numbers of a learner"
    if (needed := 4 * sum(weights)) > (memory := machine_memory()) / 4:
        return f"its weights take {needed / 2**30:,.1f} GiB, but this machine has {memory / 2**30:,.1f} GiB of memory"
    return None


def load_tensors(learner: Learner, tensors: Mapping[str, Tensor]) -> str | None:
    """Give a learner its tensors. Return why they do not fit, or None if they do."""
    state = learner.state_dict()
    for name, tensor in state.items():
        if name not in tensors:
            return f"it has no tensor '{name}'"
        if tensors[name].shape != tensor.shape:
            return f"its tensor '{name}' has shape {tuple(tensors[name].shape)}, but {tuple(tensor.shape)} is wanted"
    if more := sorted(tensors.keys() - state.keys()):
        return f"it has a tensor '{more[0]}', which this learner has not"
    learner.load_state_dict(dict(tensors))
    return None


def wrong_optimizer(learner: Learner, tensors: Mapping[str, Tensor]) -> str | None:
    """Return why a state is not that of the outer optimizer of a learner, or None if it is.

    Args:
        learner: The learner.
        tensors: The state by `index.key`, in which the index counts the learner's trained parameters. Empty before the
            first outer step.

    """
    shapes = {
        f"{index}.{key}": () if key == "step" else tuple(parameter.shape)
        for index, parameter in enumerate(p for p in learner.parameters() if p.requires_grad)
        for key in _MOMENTS
    }
    for name, tensor in tensors.items():
        if name not in shapes or tensor.shape != shapes[name] or not tensor.is_floating_point():
            seen = f"its optimizer's tensor '{name}' has shape {tuple(tensor.shape)} and dtype {tensor.dtype}"
            wanted = f"shape {shapes[name]} and float32 are wanted" if name in shapes else "there is no such tensor"
            return f"{seen}, but {wanted}"
    indices = {name.partition(".")[0] for name in tensors}
    if lacking := sorted({f"{index}.{key}" for index in indices for key in _MOMENTS} - tensors.keys()):
        return f"it has no tensor '{lacking[0]}' of the optimizer"
    return None


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of each parameter."""
