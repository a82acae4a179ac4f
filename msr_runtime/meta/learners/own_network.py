"""What is looked at in a network of your own before anything is trained: does it keep the rules of an inner loop?

* It maps x `(samples, *inputs)` to `(samples, *outputs)`.
* Each sample is computed by itself. Batch normalization reads the other samples, so its running statistics are frozen.
* Only torch's own dropout and the like may be random, and only in training mode.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from msr_runtime.errors import MsrError, TrainingError, line_of_users_code
from msr_runtime.meta.networks.written import written_out
from msr_runtime.task import Shape

_SAMPLES = 16
"""Samples on which the network is looked at."""
_SAME = 1e-4
"""Largest difference between a sample among few and among many, relative to the largest output: rounding."""


def is_own(network: nn.Module) -> bool:
    """Return whether a network comes from elsewhere than `msr_runtime.meta.networks`."""
    return not type(network).__module__.startswith("msr_runtime.")


def freeze_statistics(network: nn.Module) -> None:
    """Let batch normalization use its running statistics, and leave them as they are."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def examine(network: nn.Module, inputs: Shape, outputs: Shape) -> bool:
    """Look at a network of your own. Nothing of it is changed, and no global random number is drawn.

    Args:
        network: The network, as its factory made it.
        inputs: The shape of a sample's x.
        outputs: The shape of a sample's y.

    Returns:
        Whether it is random in training mode, as with dropout.

    Raises:
        TrainingError: It breaks a rule of the module's docstring, or its weights are not float32 alone.

    """
    kind = type(network).__name__
    for name, module in network.named_modules():
        if isinstance(module, nn.RNNBase):
            raise TrainingError(
                f"network {kind} has a recurrent layer '{name}', a {type(module).__name__}, which keeps a second list "
                "of its weights that an export cannot follow; unroll nn.GRUCell or nn.LSTMCell over the sequence"
            )
        if parametrize.is_parametrized(module):
            raise TrainingError(
                f"network {kind} has a weight in layer '{name}' that torch computes from others "
                f"({_parametrization(module)}), but the inner loop moves the weights themselves; make it plain "
                "(torch.nn.utils.parametrize.remove_parametrizations) or leave it out"
            )
    for name, tensor in network.named_parameters():
        if tensor.dtype != torch.float32:
            raise TrainingError(
                f"network {kind} has a parameter '{name}' of {tensor.dtype}, but float32 is wanted; return "
                "network.float()"
            )
    modes = {module: module.training for module in network.modules()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(_SAMPLES, *inputs)
        network.train()
        freeze_statistics(network)
        first, second = _outputs(network, x, outputs), _outputs(network, x, outputs)
        network.eval()
        few = torch.cat([_outputs(network, each, outputs) for each in x.split(2)])  # torch's norms refuse batches of 1
        together = _outputs(network, x, outputs)
        again = _outputs(network, x, outputs)
    for module, mode in modes.items():
        module.training = mode
    if not together.isfinite().all():
        raise TrainingError(
            f"network {kind} gives {together[~together.isfinite()][0].item()} for x near one, but finite outputs are "
            "wanted; the likely cause is a division by zero, a logarithm or a root, or weights that were never set"
        )
    if not torch.equal(together, again):
        raise TrainingError(
            f"network {kind} gives other outputs for the same x in evaluation mode, but a robot's action must not be "
            "random; draw nothing there (self.training says which mode it is)"
        )
    error = (few - together).abs().max()
    if not error <= _SAME * together.abs().max() + 1e-6:
        raise TrainingError(
            f"network {kind} gives another output for a sample among 2 than among {_SAMPLES} samples (by {error:.2g}), "
            "but each sample must be computed by itself; most likely a layer takes a mean over the samples "
            "(give batch normalization running statistics), or attends or recurs over them (set batch_first=True)"
        )
    return not torch.equal(first, second)


def _outputs(network: nn.Module, x: Tensor, outputs: Shape) -> Tensor:
    kind, seen = type(network).__name__, tuple(x.shape)
    try:
        with written_out():
            y = network(x)
    except MsrError:
        raise
    except Exception as error:  # whatever the user's code raises
        where = line_of_users_code(error) or "its code"
        raise TrainingError(
            f"network {kind} was given x of shape {seen} (samples first) and raised {type(error).__name__}: {error}, "
            f"in {where}; let it map x to y of shape {(len(x), *outputs)}"
        ) from error
    if not isinstance(y, Tensor) or y.shape != (len(x), *outputs):
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise TrainingError(
            f"network {kind} maps x of shape {seen} to {got}, but y of shape {(len(x), *outputs)} is wanted: samples "
            "first, then the shape of a sample's y"
        )
    return y


def _parametrization(module: nn.Module) -> str:
    parts = next(iter(module.parametrizations.values()))  # type: ignore[union-attr]
    return type(parts[0]).__name__.lstrip("_")
