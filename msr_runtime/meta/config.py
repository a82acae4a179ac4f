"""The whole configuration of a meta-training run, as it stands in `config.json` and in every checkpoint."""

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt

from msr_runtime.meta.learner import LearnerConfig
from msr_runtime.task import Field, Loss, TaskFamily


class TrainSettings(BaseModel):
    """What a user chooses about a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt = 4000
    """Outer steps."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights, of the tasks and of every draw."""
    tasks_per_step: PositiveInt = 16
    """Tasks in each outer step."""
    shots: PositiveInt = 10
    """Support samples of each task."""
    queries: PositiveInt = 32
    """Query samples of each task, over all query sets."""
    training_tasks: PositiveInt = 1000
    """Tasks that are simulated before training and drawn from during it."""
    samples_per_task: PositiveInt = 64
    """Samples simulated for each task's support and for each of its query sets."""
    outer_rate: PositiveFloat = 8e-3
    """Peak of Adam's one-cycle schedule."""
    multi_step: NonNegativeInt = 0
    """Outer steps over which the query losses after every inner step count as well, less and less until only that after
    the last does (MAML++); 0 for that alone from the first step."""
    recompute: bool = False
    """Compute the inner steps again when they are differentiated, instead of keeping what they computed: the same
    to rounding, from memory for one of them, in more time."""
    clip: PositiveFloat = 1.0
    """The norm to which the outer gradient is clipped; at 10, runs were seen to end in NaN."""
    augment: bool = True
    """Augment the queries (Algorithm 2); off, the outer loss is taken on the queries as simulated."""
    insist_on_augmentation: bool = False
    """Train even though the augmentation is no symmetry of the tasks."""
    validation_tasks: PositiveInt = 64
    """Held-out tasks on which the best checkpoint is chosen."""
    validation_every: PositiveInt = 200
    """Outer steps between validations; a checkpoint is written after each."""


class TrainConfig(BaseModel):
    """A run whole: the family's contract, the method, its network and the user's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    """The family as it was named: a built-in name, `package.module:attribute`, `path/to/file.py:attribute` or recorded
    data, `path/to/file.npz`."""
    inputs: tuple[Field, ...]
    """The family's input fields, in order."""
    outputs: tuple[Field, ...]
    """The family's output fields, in order."""
    loss: Loss
    """The loss of inner and outer loop."""
    method: str
    """The learner's name."""
    learner: LearnerConfig
    """The network and its inner loop."""
    settings: TrainSettings
    """What the user chose."""

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.settings.seed

    @classmethod
    def of(
        cls, family: TaskFamily, method: str, learner: LearnerConfig, settings: TrainSettings, *, source: str = ""
    ) -> "TrainConfig":
        """Put a configuration together; `source` is how the family was named, if not by its own name."""
        return cls(
            family=source or family.name,
            inputs=family.inputs,
            outputs=family.outputs,
            loss=family.loss,
            method=method,
            learner=learner,
            settings=settings,
        )
