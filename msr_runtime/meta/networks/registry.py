"""The networks that a configuration can name."""

from typing import Literal

from msr_runtime.meta.networks.convolution import ConvNet, LocalNet
from msr_runtime.meta.networks.mlp import MLP

NetworkName = Literal["mlp", "conv", "local"]
"""The names of the networks: the values of the option `network`."""

NETWORKS: dict[NetworkName, type[MLP | ConvNet | LocalNet]] = {"mlp": MLP, "conv": ConvNet, "local": LocalNet}
"""Name to network class. All are built with `(inputs, outputs, widths, bias=...)`."""
