"""Whether a learner can be exported, before it is trained for hours: the untrained one goes the way of an export."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from msr_export.freeze import freeze
from msr_export.parity import check_parity
from msr_export.plain import remove_parametrizations
from msr_export.recursion_parity import check_recursion
from msr_export.streams import draw_streams
from msr_export.support import path_of
from msr_runtime.errors import ExportError, MsrError, ParityError, TrainingError, line_of_users_code
from msr_runtime.meta.learners.config import RULES, LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import MAML
from msr_runtime.meta.networks.written import written_out
from msr_runtime.meta.rules.recursive import Recursive
from msr_runtime.normalization import Normalization

_SAMPLES = 64
"""Samples of x from which the support sets are drawn."""
_SINGLES = 8
"""Support sets of one sample on which the steps must lower the loss too."""
_UPDATES = 16
"""Updates in a row of the rule `recursive`."""
_SHRINKS = 60
"""How often the steps are made smaller until they lower the loss: rates of 1/500, at least."""


def check_exportable(learner: Learner) -> None:
    """Trace a learner, write it in ONNX and compare it with torch in ONNX Runtime, as `export_bundle` does.

    An untrained learner will do, and nothing of it is changed. It takes seconds for a small network. Rates that diverge
    on it are made smaller for the comparison.

    Args:
        learner: A learner, trained or not.

    Raises:
        ExportError: It cannot be exported. The message names the layer, if one layer is the reason, and the operation.
        ParityError: Its graphs do not compute what torch computes.

    Example:
        >>> from msr_export import check_exportable
        >>> from msr_runtime.meta import LEARNERS, LearnerConfig
        >>> check_exportable(LEARNERS["maml"](LearnerConfig(width=4, depth=1), (3,), (2,), "mse"))

    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tried = copy.deepcopy(learner).cpu().eval()
        try:
            _try(tried)
        except (ParityError, TrainingError):  # a rule of one's own that returns the wrong things is no layer's fault
            raise
        except Exception as error:  # torch raises errors of all kinds for what it cannot trace
            where, line = _guilty_layer(tried), line_of_users_code(error)
            says = f"{_first_line(error)}{f', in {line}' if line else ''}; replace it by basic operations"
            raise ExportError(
                f"method '{learner.name}' with the network {type(learner.network).__name__} cannot be exported"
                f"{f', because of {where}' if where else ''}: {error if isinstance(error, MsrError) else says}"
            ) from error


def _try(learner: Learner) -> None:
    unscaled = Normalization.identity(learner.inputs, learner.outputs)
    _settle(learner)
    frozen = freeze(learner, unscaled)
    inputs = np.random.default_rng(0).standard_normal((_SAMPLES, *learner.inputs)).astype(np.float32)
    if isinstance(learner.rule, Recursive):
        (stream,) = draw_streams(learner, unscaled, learner.rule, inputs, 0, [_UPDATES])
        check_recursion(learner, unscaled, frozen, stream)
    else:
        check_parity(learner, unscaled, frozen, inputs, seed=0)


def _settle(learner: Learner) -> None:
    """Make the steps of an untrained learner smaller until they lower the loss, as those of a trained one do.

    A normalizing layer lets a single sample call for smaller steps than many samples do.
    """
    sets = [_random_set(learner, samples) for samples in (_SAMPLES, *[1] * _SINGLES)]
    for _ in range(_SHRINKS if learner.rule else 0):
        if all(_falls(learner, *each) for each in sets):
            return
        try:
            learner.rule.shrink()  # type: ignore[union-attr]
        except NotImplementedError:  # a rule of one's own need not know how
            return


def _random_set(learner: Learner, samples: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(samples, *learner.inputs)
    if learner.classifies:
        return x, torch.randint(learner.outputs[0], (samples,))
    return x, torch.randn(samples, *learner.outputs)


def _falls(learner: Learner, x: Tensor, y: Tensor) -> bool:
    losses, _ = path_of(learner, x, y, range(1, 6))
    return bool((losses[1:] <= losses[0]).all())


def _guilty_layer(learner: Learner) -> str:
    """The first layer, from the innermost outwards, that cannot be exported by itself either. Empty without one."""
    seen, tried = _arguments(learner), set()
    for name, layer in sorted(learner.network.named_modules(), key=lambda part: -part[0].count(".")):
        shapes = seen.get(name)
        if not name or shapes is None or (repr(layer), shapes) in tried:
            continue
        tried.add((repr(layer), shapes))
        try:
            alone = _alone(learner, layer, shapes)
        except MsrError:  # it does not map samples to samples, so it cannot be looked at by itself
            continue
        try:
            freeze(alone, Normalization.identity(alone.inputs, alone.outputs))
        except Exception:  # noqa: BLE001  # whatever it is, this layer is the reason
            return f"layer '{name}', a {type(layer).__name__}"
    return ""


def _arguments(learner: Learner) -> dict[str, tuple[torch.Size, ...]]:
    """Name of a layer to the shapes of its arguments for one sample, if all of them are numbers of samples."""
    seen: dict[str, tuple[torch.Size, ...]] = {}
    count = 5

    def note(name: str, arguments: tuple[Any, ...]) -> None:
        if all(isinstance(part, Tensor) and part.is_floating_point() and len(part) == count for part in arguments):
            seen[name] = tuple(part.shape[1:] for part in arguments)

    hooks = [
        layer.register_forward_pre_hook(lambda _, arguments, name=name: note(name, arguments))
        for name, layer in learner.network.named_modules()
    ]
    try:
        with torch.no_grad():
            learner(learner.start(), torch.randn(count, *learner.inputs))
    except Exception:  # noqa: BLE001  # then no layer is named
        seen.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


class _Alone(nn.Module):
    """One layer of a network: it maps its arguments, flattened side by side, to its flattened output."""

    def __init__(self, layer: nn.Module, shapes: tuple[torch.Size, ...]) -> None:
        super().__init__()
        self.layer, self.shapes = layer, shapes
        self.scale = nn.Parameter(torch.ones(1))  # so that something adapts in front of every layer

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.scale * x).split([shape.numel() for shape in self.shapes], 1)
        y = self.layer(*(part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)))
        return (y[0] if isinstance(y, tuple) else y).flatten(1)


def _alone(learner: Learner, layer: nn.Module, shapes: tuple[torch.Size, ...]) -> Learner:
    """A learner whose network is one layer, with the same rule if it is a built-in one."""
    network = _Alone(copy.deepcopy(layer), shapes).eval()
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            remove_parametrizations(module)
    inputs = sum(shape.numel() for shape in shapes)
    with torch.no_grad(), written_out():
        outputs = network(torch.zeros(2, inputs)).shape[1:]
    rule = learner.config.rule if learner.config.rule in RULES else "gradient"
    kind = type("LayerAlone", (MAML,), {"build_network": lambda _: network})
    return kind(LearnerConfig(rule=rule), (inputs,), tuple(outputs), "mse").eval()


def _first_line(error: Exception) -> str:
    """What an error says, without torch's advice on itself."""
    if "Constraints violated" in str(error):
        return "an operation in its code holds for one number of samples only, but any number is wanted"
    return f"{type(error).__name__}: {error}".split("\n")[0][:300]
