"""A network that is a sum of learned functions of x, with one coefficient per function."""

import torch
from torch import Tensor, nn

from msr_runtime.task import Shape


class BasisNetwork(nn.Module):
    """The sum `g0(x) + c1 g1(x) + c2 g2(x) + ...` of functions that are the outputs of one network.

    Every function gives a whole y. So a coefficient weighs all outputs of a sample together, and what is known of one
    output says something of the others. The sum is linear in the coefficients, whatever the functions are.

    Args:
        functions: The network that gives all functions of x at once: `(samples, *basis_shape(outputs, count))`.
        outputs: The shape of a sample's y.
        count: The number of coefficients.

    """

    def __init__(self, functions: nn.Module, outputs: Shape, count: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.coefficients = nn.Parameter(torch.zeros(count))
        self.functions = functions

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(samples, *inputs)` to `(samples, *outputs)`."""
        values = self.functions(x).unflatten(1, (-1, self.outputs[0]))
        coefficients = self.coefficients.reshape(-1, *[1] * len(self.outputs))
        # A product and a sum, not a product of matrices: ONNX Runtime is slow on stacks of small ones.
        return values[:, 0] + (coefficients * values[:, 1:]).sum(1)


def basis_shape(outputs: Shape, count: int) -> Shape:
    """The outputs of the network behind a `BasisNetwork`: g0 and `count` functions, side by side on the first axis."""
    return ((1 + count) * outputs[0], *outputs[1:])
