"""The size of a network and of its inner loop."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator
from pydantic import Field as Limits

from msr_runtime.errors import TrainingError
from msr_runtime.meta.networks.activations import Activation
from msr_runtime.meta.networks.convolution import Head, Norm
from msr_runtime.meta.symmetry.grid import GRID_NAMES, GridGroup, GridName
from msr_runtime.meta.symmetry.reparameterize import Form

RULES = ("gradient", "gauss-newton", "ridge", "recursive")
"""The names of the built-in adaptation rules (see `msr_runtime.meta.rules`)."""
PLAIN, NEWTON = RULES[:2]
"""The rules of learners for which none is named."""
PLAIN_STEPS, _NEWTON_STEPS = 5, 2
"""Their inner steps, if no number is named. Benchmarks of both rules measured these."""

FOUND = "found"
"""The `grid_group` that is found when a run is prepared."""


class LearnerConfig(BaseModel):
    """The size of a network and of its inner loop.

    Example:
        >>> from msr_runtime.meta import LEARNERS, LearnerConfig
        >>> config = LearnerConfig(width=32, filters=16, rule="gauss-newton", inner_steps=2)
        >>> learner = LEARNERS["msr"](config, (18,), (2,), "mse")
        >>> learner.adapted_size()  # four layers: 16 filter parameters per weight, 16 or 2 per bias
        114

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    network: str = "mlp"
    """`mlp`; `conv`, filters of 3 x 3 (3 on signals); `conv-grid`, the same with strides that keep flips and quarter
    turns exact; `local`, where every position has its own filter; or a network of your own: a function or class named
    as package.module:attribute or path/to/file.py:attribute."""
    width: PositiveInt | Annotated[tuple[PositiveInt, ...], Limits(min_length=1)] = 64
    """Units or channels of every hidden layer, or a number for each of them, such as 50 60 50."""
    depth: NonNegativeInt = 3
    """Hidden layers. With 0 the network is one linear layer or one convolution."""
    bias: bool = True
    """Give the layers biases."""
    activation: Activation = "silu"
    """What stands between the layers of a built-in network."""
    norm: Norm = "none"
    """What normalizes the hidden layers of a `conv` network: `none`, or `layer` over each sample's whole map. `batch`
    is refused: a robot's answer must not depend on the other samples of a batch."""
    head: Head = "linear"
    """What follows the last map of a `conv` network that ends in a vector: `linear`, a linear layer on all of the map;
    `mean`, a linear layer on its mean over positions; or `map`, nothing: the map is the embedding for prototypes."""
    grid_group: GridName | Literal["found"] | None = None
    """The flips and turns of a `conv-grid` network: `D1` (a left-right flip), `C2` (a half turn), `D2` (both flips),
    `C4` (quarter turns), `D4` (quarter turns and flips), `C8` and `D8` (the same with turns by 45 degrees, for images
    of 17 or 33 pixels), or `found`, what is found in the family's augmentation. The form `equivariant` and the method
    `orbit-prototypes` are built on them, and the form `kronecker` starts at them."""
    adapt: tuple[str, ...] = ("*",)
    """Patterns of the weights that adapt, such as `layers.2.*` or `*.bias`. The others are learned by the outer loop
    alone."""
    rule: str | None = None
    """`gradient` steps; `gauss-newton` steps; `ridge`, one exact step if the network is linear in what adapts;
    `recursive`, a Kalman filter that takes the samples one by one; or a rule of your own, named like a network. None:
    `gauss-newton` for `msr` and `cavia`, the best one in measurements. If y is a class or the network is convolutional,
    and for all other methods: `gradient`."""
    inner_steps: PositiveInt | None = None
    """Inner steps: steps on the support set. None: 2 for `gauss-newton`, 5 for others. Rules `ridge` and `recursive`
    take one."""
    inner_rate: PositiveFloat = 0.1
    """Where the learned inner rates start: a weight's move per unit of its gradient. Only for `gradient`."""
    step_rates: bool = False
    """Learn separate rates for each inner step. Only for `gradient`."""
    damping: PositiveFloat | None = None
    """Where the learned damping starts, in squared errors. None: 0.3 for `gauss-newton`, 0.001 for `ridge`. For
    `recursive` it is the variance of the noise on y, 0.01."""
    first_order: bool = False
    """Treat the derivatives of the inner loop as constants in the outer loop."""
    memory: Annotated[int, Limits(ge=1, le=10_000)] = 64
    """Number of samples that make up the covariance. Those that say most about v are kept. Only for `recursive`."""
    gate: PositiveFloat | None = 3.0
    """A number of standard deviations. A larger error is an outlier, and moves v only as much as an error of this size.
    None: all errors count in full. Only for `recursive`."""
    relinearize: Annotated[int, Limits(ge=0, le=1024)] = 16
    """After 2, 3, 4, 6, 8, 12 samples and so on, up to this number, all samples so far are linearized again, at the
    network as it is then. 0: no sample is linearized again. Only for `recursive`."""
    time_constant: PositiveFloat | None = None
    """After this time, in samples, 1/e of what was learned is left. It is learned, and starts here. None: nothing is
    forgotten. Only for `recursive`."""
    objective: Literal["likelihood", "error"] = "likelihood"
    """What the outer loop minimizes: the negative log `likelihood` of the queries, which trains the variances too, or
    the `error`, the loss alone. Only for `recursive`."""
    filters: PositiveInt = 64
    """k, the filter parameters per tensor. Only for reparameterized networks."""
    form: Form = "full"
    """The form of the symmetry matrix. Only for reparameterized networks."""
    terms: PositiveInt = 1
    """Terms of the form `kronecker`. Only for reparameterized networks. With a `grid_group`, there is one per element
    of the group."""
    reparameterized: bool = False
    """Put a symmetry matrix behind every weight, for any method. MSR is MAML on such a network."""
    temperature: PositiveFloat | None = None
    """Where the learned temperature of prototypes starts. The score of a class is minus its mean squared distance per
    number, over the temperature. None: 0.1 for `orbit-prototypes`; `protonets` then scores by plain squared distances.
    """
    context: PositiveInt = 32
    """Length of the context vector of method `cavia`; number of basis functions of method `function-encoder`."""

    @field_validator("norm", mode="before")
    @classmethod
    def _refuse_batch_norm(cls, norm: object) -> object:
        if norm == "batch":
            raise ValueError(
                "norm is 'batch', but statistics of a batch of test samples tell each sample what the others are, and "
                "a robot that acts on one sample has no others: take 'layer' (--learner.norm layer) or 'none'"
            )
        return norm

    @model_validator(mode="after")
    def _check(self) -> "LearnerConfig":
        if not isinstance(self.width, int) and len(self.width) != self.depth:
            raise ValueError(
                f"width names {len(self.width)} hidden layers, {self.width}, but depth is {self.depth}: set depth to "
                f"{len(self.width)} (--learner.depth {len(self.width)}), or give one width for all layers"
            )
        return self

    @property
    def steps(self) -> int:
        """Inner steps, also where the configuration names none."""
        return self.inner_steps or (_NEWTON_STEPS if self.rule == NEWTON else PLAIN_STEPS)

    @property
    def flips_and_turns(self) -> GridGroup | None:
        """The group of `grid_group`.

        Raises:
            TrainingError: It is still to be found in a family's augmentation.

        """
        if self.grid_group == FOUND:
            raise TrainingError(
                f"grid_group is '{FOUND}', but no family is here in whose augmentation flips and turns could be found; "
                f"let `prepare` find them, or name a group: {', '.join(GRID_NAMES)} (--learner.grid-group)"
            )
        return None if self.grid_group is None else GridGroup.named(self.grid_group)

    @property
    def widths(self) -> tuple[int, ...]:
        """Units or channels of each hidden layer."""
        return (self.width,) * self.depth if isinstance(self.width, int) else self.width
