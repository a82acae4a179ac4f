"""The Jacobian of a support set's residuals with respect to the tensors that move.

Both functions return the same numbers. The first costs one pass per output of a sample, the second one pass per number
that moves. The caller takes the cheaper one.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vjp, vmap

from msr_runtime.meta.rules.rule import Tensors

Jacobian = Callable[[Callable[..., Tensor], Tensors, tuple[Tensor, ...]], Tensors]
"""A function like those below."""


def jacobian_backwards(residuals: Callable[..., Tensor], moving: Tensors, support: tuple[Tensor, ...]) -> Tensors:
    """Row by row: one backward pass per number of a sample's output.

    It works sample by sample, because a sample's outputs do not depend on the inputs of another. For all samples at
    once, most entries would be zeros.

    Args:
        residuals: A function of the moving tensors and of `support`, sample by sample.
        moving: Name to tensor.
        support: Tensors with one row per sample; the last has one row of outputs per sample.

    Returns:
        Name to the Jacobian `(shots * outputs, numbers)` of this tensor.

    """
    outputs = support[-1][0].numel()
    unit = torch.eye(outputs, dtype=support[-1].dtype, device=support[-1].device)

    # Each row of the unit matrix picks one output. Pulled back, it is that output's row of the Jacobian.
    def of_sample(*sample: Tensor) -> Tensors:
        alone = [part.unsqueeze(0) for part in sample]
        pull_back = vjp(lambda moving: residuals(moving, *alone).flatten(), moving)[1]
        return vmap(pull_back)(unit)[0]

    return {name: part.flatten(0, 1).flatten(1) for name, part in vmap(of_sample)(*support).items()}


def jacobian_forwards(residuals: Callable[..., Tensor], moving: Tensors, support: tuple[Tensor, ...]) -> Tensors:
    """Column by column: one pass per number that moves. Arguments and result are those of `jacobian_backwards`.

    A vjp (vector-Jacobian product) is linear in its vector. The vjp of this linear map is the jvp (Jacobian-vector
    product). So no forward-mode rules are needed. torch lacks these rules for some operators and compiles them for
    others.
    """
    sizes = [tensor.numel() for tensor in moving.values()]
    unit = torch.eye(sum(sizes), dtype=support[-1].dtype, device=support[-1].device)
    pull_back = vjp(lambda moving: residuals(moving, *support), moving)[1]
    push_forward = vjp(lambda cotangent: pull_back(cotangent)[0], torch.zeros_like(support[-1]))[1]

    def along(direction: Tensor) -> Tensor:
        parts = zip(moving.items(), direction.split(sizes), strict=True)
        return push_forward({name: part.reshape(tensor.shape) for (name, tensor), part in parts})[0].flatten()

    return dict(zip(moving, vmap(along, out_dims=1)(unit).split(sizes, dim=1), strict=True))
