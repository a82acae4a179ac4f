"""A phase: how the samples of one query set are gathered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from msr_envs.simulated.actions import Excitation, RandomActions
from msr_runtime.errors import FamilyError


@dataclass(frozen=True)
class Phase:
    """How samples are gathered: what acts, from where, and for how long."""

    actions: Excitation = field(default_factory=RandomActions)
    """What chooses the actions."""
    options: Mapping[str, Any] | Callable[[np.random.Generator], Mapping[str, Any]] = field(default_factory=dict)
    """Options for `reset` of the environment, such as where the robot starts, or a function that draws them."""
    steps: int = 50
    """An episode is begun anew after so many steps, if it did not end before."""
    every: int = 1
    """One of so many steps becomes a sample. More than 1 makes the samples differ more."""

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("every", self.every)):
            if value < 1:
                raise FamilyError(f"Phase: {name} is {value}, but it must be 1 or more")
        if self.every > self.steps:
            raise FamilyError(
                f"Phase: every is {self.every} and steps {self.steps}, so no episode gives a second sample; raise steps"
            )

    def draw_options(self, rng: np.random.Generator) -> dict[str, Any]:
        """Return the options of one reset."""
        return dict(self.options(rng) if callable(self.options) else self.options)
