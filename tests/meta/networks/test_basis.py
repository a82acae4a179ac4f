"""A sum of functions with coefficients: its shapes, and what it computes."""

import pytest
import torch

from msr_runtime.meta.networks.basis import BasisNetwork, basis_shape
from msr_runtime.meta.networks.convolution import ConvNet
from msr_runtime.meta.networks.mlp import MLP


@pytest.mark.parametrize(
    ("network", "inputs", "outputs"), [(MLP, (3,), (2,)), (MLP, (3,), (2, 4)), (ConvNet, (1, 6, 5), (2, 4, 3))]
)
def test_the_sum_is_that_of_its_functions(network, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    """One coefficient weighs all numbers of its function. With zeros, the first function is left."""
    functions = network(inputs, basis_shape(outputs, 3), [5] if network is MLP else []).double()
    basis = BasisNetwork(functions, outputs, 3)
    x = torch.randn(7, *inputs, dtype=torch.float64)
    values = functions(x).reshape(7, 4, *outputs)
    torch.testing.assert_close(basis(x), values[:, 0])
    coefficients = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
    found = torch.func.functional_call(basis, {"coefficients": coefficients}, (x,))
    torch.testing.assert_close(found, values[:, 0] + 0.5 * values[:, 1] - 2 * values[:, 2] + 3 * values[:, 3])
