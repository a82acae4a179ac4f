"""Mixed precision: the outer loop multiplies matrices and filters in bfloat16, and does all else in float32.

A number in bfloat16 takes half the memory, and processors made for it multiply several times as many of them. It has
the range of float32 and about three decimal digits. So weights, their gradients and the optimizer stay in float32, and
only products are rounded.

Source: Micikevicius et al., "Mixed Precision Training", 2018; Kalamkar et al., "A Study of BFLOAT16 for Deep Learning
Training", 2019.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.prototypes import ProtoNets
from msr_runtime.meta.rules.gradient import GradientSteps

Precision = Literal["float32", "bfloat16"]
"""The numbers that an outer step multiplies."""


class RoundedProducts(TorchFunctionMode):
    """A context in which layers multiply matrices and filters in bfloat16. Their outputs are float32 again.

    The products of their gradients are in bfloat16 too. torch's own `autocast` fails on convolutions under `vmap`.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch, with rounded arguments if it is a layer."""
        kwargs = kwargs or {}
        if func not in _LAYERS:
            return func(*args, **kwargs)
        rounded, named = tree_map_only(Tensor, Tensor.bfloat16, (args, kwargs))
        return func(*rounded, **named).float()


_LAYERS = (nn.functional.linear, torch.conv1d, torch.conv2d, torch.conv3d)
"""What is rounded: how torch's layers call their products."""


def require_precision(learner: Learner, precision: Precision, *, recompute: bool) -> None:
    """Refuse bfloat16 for a learner that solves linear systems, and where inner steps are computed twice.

    Raises:
        TrainingError: It is bfloat16, and the learner's rule is not `gradient`; or inner steps are recomputed.

    """
    if precision == "float32":
        return
    rule = learner.refinement if isinstance(learner, ProtoNets) else learner.rule
    if rule is not None and not isinstance(rule, GradientSteps):
        raise TrainingError(
            f"precision is 'bfloat16', but the rule {type(rule).__name__} solves linear systems, which rounding "
            "to three digits makes wrong: set precision to 'float32' (--settings.precision float32), or rule to "
            "'gradient' (--learner.rule gradient)"
        )
    if recompute:
        raise TrainingError(
            "precision is 'bfloat16' and recompute is set, but inner steps are computed again in float32, and would "
            "differ: leave one of them out (--settings.precision float32, or --settings.no-recompute)"
        )
