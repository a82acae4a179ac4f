"""The residuals of each loss. A Gauss-Newton step minimizes the sum of their squares.

Each function takes `outputs`, `held` and the targets y. `held` has the value of the outputs at the start of the step.
It is a constant for the Jacobian: the weights of the residuals come from it and stay fixed during the step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from msr_runtime.task import Loss


def _error(outputs: Tensor, _held: Tensor, y: Tensor) -> Tensor:
    """MSE: the plain error."""
    return outputs - y


def _reweighted_error(outputs: Tensor, held: Tensor, y: Tensor) -> Tensor:
    """Huber: an error larger than 1 is divided by the square root of its size.

    Its square then grows like the size of the error, as the Huber loss does. This is one step of iteratively reweighted
    least squares.
    """
    return (outputs - y) / (held - y).abs().clamp(min=1).sqrt()


def _pearson_residual(outputs: Tensor, held: Tensor, y: Tensor) -> Tensor:
    """Cross entropy: the value is the Pearson residual `(p - hit) / √p`, with p the held class probabilities.

    Its Jacobian in the outputs is `L = diag(√p) - √p pᵀ`, and LᵀL is the Hessian of the softmax, `diag(p) - p pᵀ`.
    """
    # √p. The clamp keeps it above 0: the probability of a class that the network excludes would underflow, and
    # hit / root would divide by 0.
    root = (0.5 * held.log_softmax(-1).clamp(min=-60)).exp()
    change = outputs - held
    hit = (y.unsqueeze(-1) == torch.arange(outputs.shape[-1], device=y.device)).to(root.dtype)
    return root * (change - (root.square() * change).sum(-1, keepdim=True)) + root - hit / root


RESIDUALS: dict[Loss, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mse": _error,
    "huber": _reweighted_error,
    "cross_entropy": _pearson_residual,
}
"""Loss name to its residuals: a function of outputs, held outputs and targets."""
