"""The plain networks that a learner adapts. None of them knows about tasks, U or v.

`mlp` holds perceptrons, `convolution` networks of small filters, `prototypes` a classifier by distance. `registry`
knows the names that a configuration can use, those of your own networks included.
"""

from msr_runtime.meta.networks.convolution import ConvNet, GridConvNet, LocallyConnected, LocalNet
from msr_runtime.meta.networks.mlp import MLP, ContextMLP
from msr_runtime.meta.networks.prototypes import OrbitPrototypeNetwork, PrototypeNetwork
from msr_runtime.meta.networks.registry import NETWORKS, make_network

__all__ = [
    "MLP",
    "NETWORKS",
    "ContextMLP",
    "ConvNet",
    "GridConvNet",
    "LocalNet",
    "LocallyConnected",
    "OrbitPrototypeNetwork",
    "PrototypeNetwork",
    "make_network",
]
