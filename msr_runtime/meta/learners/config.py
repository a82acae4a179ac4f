"""The size of a network and of its inner loop."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt

from msr_runtime.meta.networks.registry import NetworkName
from msr_runtime.meta.symmetry.reparameterize import Form

RuleName = Literal["gradient", "gauss-newton", "ridge"]
"""The names of the adaptation rules (see `msr_runtime.meta.rules`)."""


class LearnerConfig(BaseModel):
    """The size of a network and of its inner loop.

    Example:
        >>> from msr_runtime.meta import LEARNERS, LearnerConfig
        >>> config = LearnerConfig(width=32, filters=16, rule="gauss-newton", inner_steps=2)
        >>> learner = LEARNERS["msr"](config, (18,), (2,), "mse")
        >>> learner.adapted_size()  # four layers: 16 filter parameters per weight, 16 or 2 per bias
        114

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkName = "mlp"
    """`mlp`; `conv`, filters of 3 x 3 (3 on signals); or `local`, where every position has its own filter."""
    width: PositiveInt = 64
    """Units or channels per hidden layer."""
    depth: NonNegativeInt = 3
    """Hidden layers. With 0 the network is one linear layer or one convolution."""
    bias: bool = True
    """Give the layers biases."""
    rule: RuleName = "gradient"
    """`gradient` steps, `gauss-newton` steps, or `ridge`: one exact step if the network is linear in what adapts."""
    inner_steps: PositiveInt = 5
    """Inner steps: steps on the support set. Rule `ridge` takes one."""
    inner_rate: PositiveFloat = 0.1
    """Where the learned inner rates start: a weight's move per unit of its gradient. Only for `gradient`."""
    step_rates: bool = False
    """Learn separate rates for each inner step. Only for `gradient`."""
    damping: PositiveFloat | None = None
    """Where the learned damping starts, in squared errors. None: 0.3 for `gauss-newton`, 0.001 for `ridge`."""
    first_order: bool = False
    """Treat the derivatives of the inner loop as constants in the outer loop."""
    filters: PositiveInt = 64
    """k, the filter parameters per tensor. Only for reparameterized networks."""
    form: Form = "full"
    """The form of the symmetry matrix. Only for reparameterized networks."""
    terms: PositiveInt = 1
    """Terms of the form `kronecker`. Only for reparameterized networks."""
    reparameterized: bool = False
    """Put a symmetry matrix behind every weight, for any method. MSR is MAML on such a network."""
    context: PositiveInt = 32
    """Length of the context vector. Only for method `cavia`."""
