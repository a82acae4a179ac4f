"""What moves the simulated robot while data is gathered: random actions, smooth random actions, or a policy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from msr_envs.simulated.spaces import Side
from msr_runtime.errors import FamilyError

Floats = NDArray[np.float64]
Task = Mapping[str, Any]
"""What `task` drew. Where each row of a vector environment has a task of its own, each number is a column `(n, 1)`."""
Act = Callable[[Floats], Floats]
"""From observations `(n, observation)` to actions `(n, action)`, one row per environment."""


class Excitation(Protocol):
    """What chooses the actions of an episode."""

    def start(self, rng: np.random.Generator, rows: int, action: Side, task: Task) -> Act:
        """Return the function that is asked for the actions of one episode.

        Args:
            rng: The source of all randomness.
            rows: How many environments run side by side.
            action: The numbers of an action, with `low` and `high` `(action,)`.
            task: What `task` drew.
        """
        ...


@dataclass(frozen=True)
class RandomActions:
    """Actions that are uniform in the bounds of the action space, drawn anew in each step."""

    scale: float | Sequence[float] = 1.0
    """The share of the bounds that is used, around their middle. Several numbers: one for each number of an action, 0
    for one that rests."""

    def start(self, rng: np.random.Generator, rows: int, action: Side, task: Task) -> Act:  # noqa: ARG002
        """Begin an episode."""
        middle, half = _reach(action, self.scale)
        return lambda observation: middle + half * rng.uniform(-1, 1, (len(observation), action.size))


@dataclass(frozen=True)
class SmoothActions:
    """Random actions that change slowly: noise through a first-order filter, cut off at the bounds.

    They move a robot farther than actions that change in every step and cancel out.
    """

    steps: float = 5.0
    """The time constant of the filter, in steps."""
    scale: float | Sequence[float] = 1.0
    """As in `RandomActions`."""

    def start(self, rng: np.random.Generator, rows: int, action: Side, task: Task) -> Act:  # noqa: ARG002
        """Begin an episode."""
        middle, half = _reach(action, self.scale)
        kept = np.exp(-1 / self.steps)
        state = rng.standard_normal((rows, action.size))

        def act(observation: Floats) -> Floats:  # noqa: ARG001
            nonlocal state
            chosen = middle + half * np.clip(0.6 * state, -1, 1)  # one in ten reaches a bound
            state = kept * state + np.sqrt(1 - kept**2) * rng.standard_normal(state.shape)
            return chosen

        return act


@dataclass(frozen=True)
class Policy:
    """A policy of your own drives, with random noise if you want the data to reach beyond its own paths."""

    act: Callable[[Floats, Task], Any]
    """From observations `(n, observation)` and the task to actions `(n, action)`."""
    noise: float = 0.0
    """Standard deviation of the noise on each number of an action, as a share of half its bounds."""

    def start(self, rng: np.random.Generator, rows: int, action: Side, task: Task) -> Act:  # noqa: ARG002
        """Begin an episode."""
        half = _reach(action, 1.0)[1] if self.noise else 0.0

        def act(observation: Floats) -> Floats:
            chosen = called(self.act, observation, task, action)
            noise = self.noise * half * rng.standard_normal(chosen.shape) if self.noise else 0.0
            return np.clip(chosen + noise, action.low, action.high)

        return act


def called(policy: Callable[[Floats, Task], Any], observation: Floats, task: Task, action: Side) -> Floats:
    """Return the policy's actions `(n, action)`.

    Raises:
        FamilyError: They have another shape, or are not finite.
    """
    chosen, wanted = np.asarray(policy(observation, task), np.float64), (len(observation), action.size)
    if chosen.shape != wanted:
        raise FamilyError(
            f"the policy gave actions of the shape {chosen.shape} for observations {observation.shape}, but {wanted} "
            "is wanted, one row per observation; a policy for one observation is np.stack([policy(o) for o in "
            "observation])"
        )
    if not np.isfinite(chosen).all():
        raise FamilyError(f"the policy gave the action {chosen[~np.isfinite(chosen).all(1)][0].tolist()}")
    return chosen


def _reach(action: Side, scale: float | Sequence[float]) -> tuple[Floats, Floats]:
    """Return the middle `(action,)` and the largest distance from it `(action,)`."""
    if not np.isfinite([action.low, action.high]).all():
        raise FamilyError(
            "the action space has no finite bounds, so random actions have no size; let a policy act "
            "(Phase(actions=Policy(...))), or give the environment gymnasium.wrappers.RescaleAction"
        )
    if np.ndim(scale) and np.shape(scale) != (action.size,):
        raise FamilyError(
            f"scale has {np.size(scale)} numbers, but an action has {action.size}; give one for each, or one for all"
        )
    return (action.low + action.high) / 2, np.asarray(scale, np.float64) * (action.high - action.low) / 2
