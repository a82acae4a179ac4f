"""The activations of the built-in networks."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

Activation = Literal["silu", "gelu", "relu", "tanh", "elu"]
"""The names of the activations: the values of the option `activation`."""

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "tanh": nn.functional.tanh,
    "elu": nn.functional.elu,
}
"""Name of an activation to its function."""
