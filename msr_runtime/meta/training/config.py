"""The configuration of a meta-training run. `config.json` and every checkpoint hold it whole."""

from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)
from pydantic import Field as Limits

from msr_runtime.meta.learners.config import FOUND, LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.training.mixed_precision import Precision
from msr_runtime.task import Field, Loss, TaskFamily, fields_agree


class TrainSettings(BaseModel):
    """The settings of a run that a user chooses."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: PositiveInt = 4000
    """Number of outer steps."""
    seed: Annotated[int, Limits(ge=0, lt=2**63)] = 0
    """Seed of the initial weights, of the tasks and of every random draw."""
    tasks_per_step: PositiveInt = 16
    """Tasks per outer step."""
    shots: PositiveInt = 10
    """Support samples per task."""
    fewest_shots: PositiveInt | None = None
    """Each outer step draws its number of support samples evenly from this number to `shots`. None: always `shots`."""
    noise: NonNegativeFloat = 0.0
    """Standard deviation of noise on y of the support samples, in normalized units: 1 is the scale of y."""
    outliers: Annotated[float, Limits(ge=0, le=1)] = 0.0
    """Share of the support samples whose y is wrong: each of its numbers is off by `outlier_size`, up or down."""
    outlier_size: PositiveFloat = 10.0
    """How far off the numbers of a wrong y are, in normalized units."""
    switches: Annotated[float, Limits(ge=0, le=1)] = 0.0
    """Share of the support sets in which the task changes: a random number of first samples is of another task."""
    queries: PositiveInt = 32
    """Query samples per task, over all query sets together."""
    training_tasks: PositiveInt = 1000
    """Tasks that are simulated before training. Every outer step draws its tasks from them."""
    samples_per_task: PositiveInt = 64
    """Samples that are simulated per task for the support set, and as many again for each query set."""
    outer_rate: PositiveFloat = 8e-3
    """Highest learning rate of the outer optimizer (Adam with a one-cycle schedule)."""
    multi_step: NonNegativeInt = 0
    """Number of first outer steps in which the query losses after every inner step count, with falling weights
    (MAML++)."""
    recompute: bool = False
    """Keep only one inner step in memory: the backward pass computes each step again. Slower; equal up to rounding."""
    precision: Precision = "float32"
    """`bfloat16`: products of matrices and convolutions are computed in bfloat16 in training, all else in float32
    (mixed precision). Faster on processors made for it. Only for the rule `gradient` and for prototypes."""
    clip: PositiveFloat = 1.0  # with 10, some measured runs ended in NaN
    """Largest norm of the outer gradient; a longer gradient is scaled down to it."""
    normalize: bool = True
    """Measure a center and a scale of x and y. Off: raw units, for a network that was trained on raw units."""
    augment: bool = True
    """Augment the queries by random group elements (Algorithm 2). Off: the outer loss uses the queries as simulated."""
    insist_on_augmentation: bool = False
    """Train even if the augmentation is not a symmetry of each task. This also skips the test for it."""
    start: str | None = None
    """A trained run or checkpoint whose weights and normalization this run begins with. Its network must be the same;
    its rule may be another one."""
    validation_tasks: PositiveInt = 64
    """Held-out tasks on which the best checkpoint is chosen."""
    validation_every: PositiveInt = 200
    """Outer steps between two validations. Each validation writes a checkpoint."""


class TrainConfig(BaseModel):
    """The configuration of a run: the family's fields and loss, the method, its network and the user's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    """Name of the family: a built-in name, `package.module:attribute`, `path/to/file.py:attribute`, the file
    `path/to/file.npz` of recorded data, or the file `path/to/file.yaml` that describes logs."""
    inputs: tuple[Field, ...]
    """The family's input fields, in order."""
    outputs: tuple[Field, ...]
    """The family's output fields, in order."""
    loss: Loss
    """Loss of the inner loop and of the outer loop."""
    method: str
    """Name of the learner, for example `msr`."""
    learner: LearnerConfig
    """The network and its inner loop."""
    settings: TrainSettings
    """The user's settings."""

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.settings.seed

    def settled(self, learner: type[Learner]) -> "TrainConfig":
        """Return this configuration with a rule and a number of inner steps: those of the learner, if it names none."""
        return self.model_copy(update={"learner": learner.settled(self.learner, self.loss)})

    def extended(self, steps: int) -> "TrainConfig":
        """Return this configuration with another number of outer steps."""
        return self.model_copy(update={"settings": self.settings.model_copy(update={"steps": steps})})

    def differences(self, other: "TrainConfig") -> str:
        """Return how another configuration differs from that of this run, as text. Empty if it can be the same run's.

        Of the fields, only what `Field.agrees` compares counts. A rule, a number of inner steps or a group that the
        other one does not name is that of this one.
        """
        differ = [
            f"{name} {value} (the run has {own})"
            for (name, own), (_, value) in zip(self._options(), other._options(), strict=True)
            if value != own and (name, value) not in _SETTLED
        ]
        for side in ("inputs", "outputs"):
            own, given = getattr(self, side), getattr(other, side)
            if not fields_agree(own, given):
                differ.append(f"{side} {_described(given)} (the run has {_described(own)})")
        return ", ".join(differ)

    def _options(self) -> list[tuple[str, object]]:
        """Return everything but the fields: each name as an option of the command, and its value."""
        options: list[tuple[str, object]] = [("family", self.family), ("loss", self.loss), ("--method", self.method)]
        for part, group in (("learner", self.learner), ("settings", self.settings)):
            options += [(f"--{part}.{name.replace('_', '-')}", value) for name, value in group]
        return options

    @classmethod
    def of(
        cls, family: TaskFamily, method: str, learner: LearnerConfig, settings: TrainSettings, *, source: str = ""
    ) -> "TrainConfig":
        """Make the configuration for a family.

        Args:
            family: The family. Its fields and its loss become part of the configuration.
            method: Name of the learner, for example `msr`.
            learner: The network and its inner loop.
            settings: The user's settings.
            source: Name by which `load_family` finds the family. Empty means the family's own name.

        """
        return cls(
            family=source or family.name,
            inputs=family.inputs,
            outputs=family.outputs,
            loss=family.loss,
            method=method,
            learner=learner,
            settings=settings,
        )


_SETTLED = (("--learner.rule", None), ("--learner.inner-steps", None), ("--learner.grid-group", FOUND))
"""Options and the values with which they are settled when a run begins."""


def _described(fields: tuple[Field, ...]) -> str:
    return " + ".join(f"{field.name} {field.describe()}" for field in fields)


def first_fault(error: ValidationError) -> str:
    """Return the first thing that is wrong in a stored configuration, as one line."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the whole text'}: {first['msg']}"
