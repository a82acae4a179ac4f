"""The inner loop: a few gradient steps on the adapted tensors of one task, as a pure function over `torch.func`.

Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017; learned rates: Li et al., "Meta-SGD", 2017.
"""

from collections.abc import Callable

from torch import Tensor
from torch.func import grad_and_value

Tensors = dict[str, Tensor]


def inner_step(
    loss: Callable[[Tensors], Tensor], adapted: Tensors, rates: Tensors, *, first_order: bool = False
) -> tuple[Tensors, Tensor]:
    """Take one step `p - rate * dloss/dp` on every adapted tensor.

    Args:
        loss: The support loss of one task as a function of the adapted tensors; returns a scalar.
        adapted: Name to tensor.
        rates: Name to rate, a scalar or of the tensor's own shape.
        first_order: Treat the gradients as constants in the outer loop.

    Returns:
        The moved tensors and the loss before the step.

    """
    gradients, value = grad_and_value(loss)(adapted)
    if first_order:
        gradients = {name: gradient.detach() for name, gradient in gradients.items()}
    return {name: tensor - rates[name] * gradients[name] for name, tensor in adapted.items()}, value
