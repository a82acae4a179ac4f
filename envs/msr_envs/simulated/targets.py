"""What y of a sample is: the change of the observation, the action of an expert, or what a function computes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from msr_envs.simulated.actions import Task, called
from msr_envs.simulated.spaces import Side
from msr_runtime.errors import FamilyError
from msr_runtime.representation import Angle, Pseudoscalar
from msr_runtime.task import Field

Floats = NDArray[np.float64]


class Transitions(NamedTuple):
    """Steps of the simulation, one row each. All are of one task."""

    observation: Floats
    """`(n, observation)`."""
    action: Floats
    """`(n, action)`."""
    next_observation: Floats
    """`(n, observation)`, one step later."""
    task: Task
    """What `task` drew."""


class Target(Protocol):
    """What computes y."""

    def fields(self, observation: Side, action: Side) -> tuple[Field, ...]:
        """Return the fields of y."""
        ...

    def inputs(self, observation: Side, action: Side) -> tuple[str, ...]:
        """Return the names of the fields of x, if nobody says otherwise."""
        ...

    def compute(self, transitions: Transitions, observation: Side, action: Side) -> Floats:
        """Return y `(n, y)`."""
        ...


class Change:
    """y is how much observed fields change within one step. x is the observation and the action.

    The difference of an angle that wraps (`Field.wraps`) is taken the short way round.

    Args:
        fields: The names of the fields. None: all of the observation.
        nominal: A model that is known: from observations `(n, observation)` and actions `(n, action)` to the change
            `(n, y)` that it expects. y is then what it leaves over.

    """

    def __init__(self, *fields: str, nominal: Callable[[Floats, Floats], Any] | None = None) -> None:
        self.names, self.nominal = fields, nominal

    def fields(self, observation: Side, action: Side) -> tuple[Field, ...]:  # noqa: ARG002
        """Return a field for each one that changes, with the suffix `_change`, and `_residual` after a model."""
        return tuple(self._changed(field) for field in self._found(observation))

    def inputs(self, observation: Side, action: Side) -> tuple[str, ...]:
        """Return all fields of the observation and of the action."""
        return tuple(field.name for field in (*observation.fields, *action.fields))

    def compute(self, transitions: Transitions, observation: Side, action: Side) -> Floats:  # noqa: ARG002
        """Return the change `(n, y)`."""
        difference, parts = transitions.next_observation - transitions.observation, []
        for field in self._found(observation):
            part = difference[:, observation.slices()[field.name]]
            parts.append(part if field.wraps is None else _short_way(part, field.wraps))
        changed = np.concatenate(parts, 1)
        if self.nominal is None:
            return changed
        expected = np.asarray(self.nominal(transitions.observation, transitions.action), np.float64)
        if expected.shape != changed.shape:
            raise FamilyError(
                f"the nominal model gave the shape {expected.shape}, but {changed.shape} is wanted: the change of "
                f"{', '.join(field.name for field in self._found(observation))}, one row per sample"
            )
        return changed - expected

    def _found(self, observation: Side) -> list[Field]:
        known = {field.name: field for field in observation.fields}
        if unknown := [name for name in self.names if name not in known]:
            raise FamilyError(
                f"Change names the field '{unknown[0]}', but the observation has {', '.join(known)}; name one of these"
            )
        return [known[name] for name in self.names or known]

    def _changed(self, field: Field) -> Field:
        reach = field.high - field.low if field.wraps is None else field.wraps / 2
        turning = field.representation
        return Field(
            name=f"{field.name}_{'residual' if self.nominal else 'change'}",
            shape=field.shape,
            unit=field.unit,
            low=-reach,
            high=reach,
            names=field.names,
            # a turn shifts an angle, but not the difference of two
            representation=Pseudoscalar() if isinstance(turning, Angle) else turning,
        )


@dataclass(frozen=True)
class Expert:
    """y is what an expert would do, in every state that the data reaches. x is the observation."""

    act: Callable[[Floats, Task], Any]
    """From observations `(n, observation)` and the task to actions `(n, action)`. It may know the task; the network
    does not."""

    def fields(self, observation: Side, action: Side) -> tuple[Field, ...]:  # noqa: ARG002
        """Return the fields of the action."""
        return action.fields

    def inputs(self, observation: Side, action: Side) -> tuple[str, ...]:  # noqa: ARG002
        """Return all fields of the observation."""
        return tuple(field.name for field in observation.fields)

    def compute(self, transitions: Transitions, observation: Side, action: Side) -> Floats:  # noqa: ARG002
        """Return the expert's actions `(n, action)`, within the bounds of the action space."""
        chosen = called(self.act, transitions.observation, transitions.task, action)
        return np.clip(chosen, action.low, action.high)


@dataclass(frozen=True)
class Computed:
    """y is what a function of yours computes. x is the observation and the action."""

    function: Callable[[Transitions], Any]
    """From transitions of one task to y `(n, y)`."""
    outputs: Sequence[Field]
    """The fields of y."""

    def fields(self, observation: Side, action: Side) -> tuple[Field, ...]:  # noqa: ARG002
        """Return `outputs`."""
        return tuple(self.outputs)

    def inputs(self, observation: Side, action: Side) -> tuple[str, ...]:
        """Return all fields of the observation and of the action."""
        return tuple(field.name for field in (*observation.fields, *action.fields))

    def compute(self, transitions: Transitions, observation: Side, action: Side) -> Floats:  # noqa: ARG002
        """Return y `(n, y)`."""
        return np.asarray(self.function(transitions), np.float64)


def _short_way(angle: Floats, turn: float) -> Floats:
    return (angle + turn / 2) % turn - turn / 2
