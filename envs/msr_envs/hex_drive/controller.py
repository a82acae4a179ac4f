"""Fly a figure eight with a one-step model of the vehicle: the closed-loop measure of HexDrive.

The controller knows the vehicle only through the network, `predict`. In every control period it takes two steps:

* A path follower computes the wanted change of the twist (velocity and yaw rate) over the next period.
* A damped Gauss-Newton search finds commands whose predicted change is nearest to it. It gets the slope from finite
  differences, through batches of predictions.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.hex_drive.simulator import PERIOD, THRUSTERS, HexTask, body_twist, simulator
from msr_envs.plane import turn
from msr_runtime.task import Predict

STEPS = 120
"""Control periods in one figure eight, which takes 12 s."""

_WIDTH, _HEIGHT = 1.0, 0.5
"""Half the width and half the height of the figure eight, m."""
_POSITION_GAIN, _HEADING_GAIN = 4.0, 3.0  # 1/s
_OUTPUT_SCALE = np.array([0.3, 0.3, 2.2])  # m/s, m/s, rad/s: errors are divided by these, to weigh alike
_ABSURD = 1e3  # much larger than any change of the twist within 0.1 s
_EFFORT = 1e-3  # weight of the squared commands: six thrusters give one twist in many ways, and this chooses one
_SHOOTING = 48  # random commands that are tried in each period
_ROUNDS = 4  # Gauss-Newton steps in each period
_OFFSET = 0.1  # of the finite differences; wide, so that they see a slope across a dead band
_DAMPINGS = np.array([1e-3, 1e-2, 1e-1, 1.0])  # all are tried in each round, and the best result is kept


class Path(NamedTuple):
    """One flight."""

    positions: NDArray[np.float64]
    """`(steps, 2)`: the vehicle's position at the end of each control period, m."""
    reference: NDArray[np.float64]
    """`(steps, 2)`: the reference's position at the same times, m."""
    headings: NDArray[np.float64]
    """`(steps,)`: the vehicle's heading, rad. The reference's heading is 0."""

    @property
    def error(self) -> float:
        """Root mean square (RMS) of the distance to the reference, m."""
        return float(np.sqrt(np.square(self.positions - self.reference).sum(-1).mean()))


def figure_eight(step: NDArray | float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the reference's position `(..., 2)` in m and velocity `(..., 2)` in m/s after `step` control periods.

    The reference's heading is always 0.
    """
    rate = 2 * np.pi / (STEPS * PERIOD)
    phase = rate * PERIOD * np.asarray(step, np.float64)
    position = np.stack([_WIDTH * np.sin(phase), _HEIGHT * np.sin(2 * phase)], -1)
    velocity = rate * np.stack([_WIDTH * np.cos(phase), 2 * _HEIGHT * np.cos(2 * phase)], -1)
    return position, velocity


def start_state() -> NDArray[np.float64]:
    """Return the state `(6,)` at the start of the figure eight, with the reference's velocity and heading."""
    position, velocity = figure_eight(0)
    return np.concatenate([position, [0.0], velocity, [0.0]])


def fly(task: HexTask, predict: Predict, rng: np.random.Generator, thrusters: int = THRUSTERS) -> Path:
    """Fly one figure eight with the vehicle `task` in the simulator.

    Args:
        task: The vehicle. The controller does not see it.
        predict: The one-step model: x `(batch, 3 + thrusters)` to y `(batch, 3)`.
        rng: Source of the random commands that are tried.
        thrusters: How many thrusters the vehicle has.

    """
    state, commands = start_state(), np.zeros(thrusters)
    states = []
    for step in range(STEPS):
        commands = choose_commands(predict, body_twist(state), desired_change(state, step), commands, rng)
        state = simulator(thrusters).advance(task, state[None], commands[None])[0]
        states.append(state)
    reference, _ = figure_eight(np.arange(1, STEPS + 1))
    flown = np.array(states)
    return Path(flown[:, :2], reference, flown[:, 2])


def desired_change(state: NDArray, step: int) -> NDArray[np.float64]:
    """Return the change `(3,)` of the body's twist that steers `state` `(6,)` to the reference.

    The wanted velocity is the reference's velocity plus a gain times the position error. m/s, m/s, rad/s.
    """
    position, _ = figure_eight(step)
    _, velocity = figure_eight(step + 1)
    wanted = velocity + _POSITION_GAIN * (position - state[:2])
    yaw_rate = -_HEADING_GAIN * state[2]
    # The change is measured in the body's frame at the end of the period, so the heading there must be known.
    next_yaw = state[2] + PERIOD * (state[5] + yaw_rate) / 2
    return np.append(turn(wanted, -next_yaw), yaw_rate) - body_twist(state)


def choose_commands(
    predict: Predict, twist: NDArray, change: NDArray, previous: NDArray, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return commands `(thrusters,)` in [-1, 1] whose predicted change of the twist is nearest to the wanted one.

    Args:
        predict: The one-step model: x `(batch, 3 + thrusters)` to y `(batch, 3)`.
        twist: Present twist `(3,)` in the body's frame.
        change: Wanted change of the twist `(3,)`.
        previous: Commands `(thrusters,)` of the last period, around which the search starts.
        rng: Source of the random commands that are tried.

    """

    def residuals(candidates: NDArray) -> NDArray:
        x = np.concatenate([np.broadcast_to(twist, (len(candidates), 3)), candidates], -1).astype(np.float32)
        # The output of a network that diverged counts as very wrong. Infinity or NaN would spoil the linear algebra.
        predicted = np.clip(np.nan_to_num(predict(x).astype(np.float64), nan=_ABSURD), -_ABSURD, _ABSURD)
        return (predicted - change) / _OUTPUT_SCALE

    def costs(candidates: NDArray, residual: NDArray) -> NDArray:
        return np.square(residual).sum(-1) + _EFFORT * np.square(candidates).sum(-1)

    # First try random commands around the previous ones: inside a dead band the slope is zero, and a search along the
    # slope would not move.
    thrusters = len(previous)
    spread = 0.5 * rng.standard_normal((_SHOOTING, thrusters))
    candidates = np.clip(np.concatenate([previous[None], previous + spread]), -1, 1)
    residual = residuals(candidates)
    best = int(np.argmin(costs(candidates, residual)))
    commands, cost, error = candidates[best], costs(candidates, residual)[best], residual[best]
    offsets = _OFFSET * np.eye(thrusters)
    for _ in range(_ROUNDS):
        ahead, behind = np.clip(commands + offsets, -1, 1), np.clip(commands - offsets, -1, 1)
        # One batch, of two predictions a thruster, gives the whole Jacobian. At a bound the difference is one-sided.
        rise = np.subtract(*np.split(residuals(np.concatenate([ahead, behind])), 2))
        slope = rise.T / np.diag(ahead - behind)
        gradient = slope.T @ error + _EFFORT * commands
        curvature = slope.T @ slope + (_EFFORT + _DAMPINGS[:, None, None]) * np.eye(thrusters)
        steps = np.linalg.solve(curvature, np.broadcast_to(gradient[:, None], (len(_DAMPINGS), thrusters, 1)))[..., 0]
        candidates = np.clip(commands - steps, -1, 1)
        residual = residuals(candidates)
        trial = costs(candidates, residual)
        best = int(np.argmin(trial))
        if trial[best] < cost:
            commands, cost, error = candidates[best], trial[best], residual[best]
    return commands
