"""Trot with a one-step model of the ant: the closed-loop measure of Ant.

The controller knows the ant only through the network, `predict`. In every control period it takes two steps:

* A path follower computes the wanted change of the joints' rates over the next period.
* A damped Gauss-Newton search finds the commands whose predicted change is nearest to it. It gets the slope from finite
  differences, through one batch of predictions a round.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.ant.simulator import ACTION, JOINTS, LEGS, MOVING, PERIOD, RATES, AntEnv
from msr_runtime.task import Predict

STEPS = 40
"""Control periods of one trot, which takes 2 s."""

_SWING, _LIFT, _ANKLE = 0.3, 0.25, 0.95  # rad: of the hips, of the ankles, and the ankles' mean
_FREQUENCY = 1.0  # Hz
_GAIN = 8.0  # 1/s
_PLACES = np.pi / 2 * (np.arange(LEGS) + 0.5)  # rad: where the legs are around the body
_PHASES = np.pi * (np.arange(LEGS) % 2)  # a trot: legs that face each other move together
_ABSURD = 1e3  # rad/s: much more than any change of a rate within a period
_ROUNDS, _OFFSET = 3, 0.1  # Gauss-Newton steps in each period; width of the finite differences
_DAMPING, _EFFORT = 0.1, 0.01  # (rad/s)², beside slopes of some rad/s; weight of the squared commands


class Trot(NamedTuple):
    """One trot."""

    angles: NDArray[np.float64]
    """`(steps, 8)`: hips and ankles at the end of each control period, rad."""
    reference: NDArray[np.float64]
    """`(steps, 8)`: what they should be, rad."""

    @property
    def error(self) -> float:
        """Root mean square (RMS) of the joints' errors, rad."""
        return float(np.sqrt(np.square(self.angles - self.reference).mean()))


def gait(step: NDArray | float, direction: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the wanted angles `(..., 8)` in rad and rates in rad/s of hips and ankles after `step` control periods.

    Args:
        step: Control periods since the start.
        direction: Where the ant shall walk, rad from straight ahead, counter-clockwise.

    """
    rate = 2 * np.pi * _FREQUENCY
    phase = rate * PERIOD * np.asarray(step, np.float64)[..., None] + _PHASES
    swing = _SWING * np.sin(_PLACES - direction)  # feet on the ground move against the direction
    angles = np.concatenate([swing * np.sin(phase), _ANKLE + _LIFT * np.cos(phase)], -1)
    rates = rate * np.concatenate([swing * np.cos(phase), -_LIFT * np.sin(phase)], -1)
    return angles, rates


def trot(ant: AntEnv, predict: Predict, rng: np.random.Generator, steps: int = STEPS) -> Trot:
    """Trot from standing in a random direction of the body.

    Args:
        ant: The simulated ant, with the physics of a task. The controller does not see it.
        predict: The one-step model: x `(batch, 34)` to y `(batch, 14)`.
        rng: Source of the direction.
        steps: Control periods.

    """
    direction = rng.uniform(-np.pi, np.pi)
    state, commands, angles = ant.stand(), np.zeros(ACTION), []
    for step in range(steps):
        now, after = gait(np.array([step, step + 1]), direction)
        wanted = after[1] + _GAIN * (now[0] - state[JOINTS])
        commands = choose_commands(predict, state, wanted - state[RATES], commands)
        state = ant.step(commands.astype(np.float32))[0]
        angles.append(state[JOINTS])
    return Trot(np.array(angles), gait(np.arange(1, steps + 1), direction)[0])


def choose_commands(predict: Predict, state: NDArray, change: NDArray, previous: NDArray) -> NDArray[np.float64]:
    """Return commands `(8,)` in [-1, 1] whose predicted change of the joints' rates is nearest to the wanted one.

    Args:
        predict: The one-step model.
        state: The observation now `(26,)`.
        change: The wanted change of the rates of hips and ankles `(8,)`, rad/s.
        previous: The commands of the last period, from which the search starts.

    """
    commands = previous
    for _ in range(_ROUNDS):
        ahead, behind = (
            np.clip(commands + _OFFSET * np.eye(ACTION), -1, 1),
            np.clip(commands - _OFFSET * np.eye(ACTION), -1, 1),
        )
        tried = np.concatenate([commands[None], ahead, behind])
        x = np.concatenate([np.tile(state, (len(tried), 1)), tried], -1).astype(np.float32)
        # The output of a network that diverged counts as very wrong. Infinity or NaN would spoil the linear algebra.
        predicted = np.clip(np.nan_to_num(predict(x)[:, -ACTION:].astype(np.float64), nan=_ABSURD), -_ABSURD, _ABSURD)
        # At a bound the difference is one-sided.
        slope = (predicted[1 : 1 + ACTION] - predicted[1 + ACTION :]).T / np.diag(ahead - behind)
        gradient = slope.T @ (predicted[0] - change) + _EFFORT * commands
        commands = np.clip(
            commands - np.linalg.solve(slope.T @ slope + (_DAMPING + _EFFORT) * np.eye(ACTION), gradient), -1, 1
        )
    return commands


def true_model(ant: AntEnv) -> Predict:
    """Return the simulator's own model of an ant: x `(batch, 34)` to y `(batch, 14)`, float32."""

    def predict(x: NDArray) -> NDArray[np.float32]:
        before = x[:, :-ACTION].astype(np.float64)
        return (ant.advance(before, x[:, -ACTION:]) - before)[:, MOVING].astype(np.float32)

    return predict
