"""Following a figure eight with a one-step model: the closed-loop measure of HexDrive.

The controller knows the vehicle only through `predict`. A path follower asks for the twist of the next period, and a
damped Gauss-Newton search over the commands, with finite differences through batched predictions, finds what gives it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.hex_drive_simulator import PERIOD, THRUSTERS, HexTask, body_twist, simulator, turn
from msr_runtime.task import Predict

STEPS = 120
"""Control periods in one figure eight of 12 s."""

_WIDTH, _HEIGHT = 1.0, 0.5
"""Half extents of the figure eight, m."""
_POSITION_GAIN, _HEADING_GAIN = 4.0, 3.0  # 1/s
_OUTPUT_SCALE = np.array([0.3, 0.3, 2.2])  # m/s, m/s, rad/s: what a full error weighs
_ABSURD = 1e3  # no change of twist within 0.1 s comes near
_EFFORT = 1e-3  # weight of the squared commands: enough to choose among the many that give the same twist
_SHOOTING = 48
_ROUNDS = 4
_OFFSETS = 0.1 * np.eye(THRUSTERS)  # of the finite differences; wide, so that a dead band still shows a slope
_DAMPINGS = np.array([1e-3, 1e-2, 1e-1, 1.0])


class Path(NamedTuple):
    """One flight."""

    positions: NDArray[np.float64]
    """`(steps, 2)`: where the vehicle was at the end of each period, m."""
    reference: NDArray[np.float64]
    """`(steps, 2)`: where it should have been, m."""
    headings: NDArray[np.float64]
    """`(steps,)`: its heading, rad; the reference is 0."""

    @property
    def error(self) -> float:
        """The RMS distance to the reference, m."""
        return float(np.sqrt(np.square(self.positions - self.reference).sum(-1).mean()))


def figure_eight(step: NDArray | float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The reference's position `(..., 2)` in m and velocity `(..., 2)` in m/s after `step` periods, heading 0."""
    rate = 2 * np.pi / (STEPS * PERIOD)
    phase = rate * PERIOD * np.asarray(step, np.float64)
    position = np.stack([_WIDTH * np.sin(phase), _HEIGHT * np.sin(2 * phase)], -1)
    velocity = rate * np.stack([_WIDTH * np.cos(phase), 2 * _HEIGHT * np.cos(2 * phase)], -1)
    return position, velocity


def start_state() -> NDArray[np.float64]:
    """State `(6,)` on the reference at its velocity, heading 0."""
    position, velocity = figure_eight(0)
    return np.concatenate([position, [0.0], velocity, [0.0]])


def fly(task: HexTask, predict: Predict, rng: np.random.Generator) -> Path:
    """Fly one figure eight of `task` in the simulator with commands chosen through `predict` alone."""
    state, commands = start_state(), np.zeros(THRUSTERS)
    states = []
    for step in range(STEPS):
        commands = choose_commands(predict, body_twist(state), desired_change(state, step), commands, rng)
        state = simulator().advance(task, state[None], commands[None])[0]
        states.append(state)
    reference, _ = figure_eight(np.arange(1, STEPS + 1))
    flown = np.array(states)
    return Path(flown[:, :2], reference, flown[:, 2])


def desired_change(state: NDArray, step: int) -> NDArray[np.float64]:
    """The change `(3,)` of the body's twist that steers `state` `(6,)` to the reference, its velocity fed forward."""
    position, _ = figure_eight(step)
    _, velocity = figure_eight(step + 1)
    wanted = velocity + _POSITION_GAIN * (position - state[:2])
    yaw_rate = -_HEADING_GAIN * state[2]
    next_yaw = state[2] + PERIOD * (state[5] + yaw_rate) / 2
    return np.append(turn(-next_yaw, wanted), yaw_rate) - body_twist(state)


def choose_commands(
    predict: Predict, twist: NDArray, change: NDArray, previous: NDArray, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Commands `(6,)` in [-1, 1] whose predicted change of `twist` `(3,)` is nearest to `change` `(3,)`."""

    def residuals(candidates: NDArray) -> NDArray:
        x = np.concatenate([np.broadcast_to(twist, (len(candidates), 3)), candidates], -1).astype(np.float32)
        # A network that diverged counts as very wrong instead of spoiling the arithmetic.
        predicted = np.clip(np.nan_to_num(predict(x).astype(np.float64), nan=_ABSURD), -_ABSURD, _ABSURD)
        return (predicted - change) / _OUTPUT_SCALE

    def costs(candidates: NDArray, residual: NDArray) -> NDArray:
        return np.square(residual).sum(-1) + _EFFORT * np.square(candidates).sum(-1)

    # Shooting round the previous commands first: the search for a slope would stay where dead bands make it vanish.
    spread = 0.5 * rng.standard_normal((_SHOOTING, THRUSTERS))
    candidates = np.clip(np.concatenate([previous[None], previous + spread]), -1, 1)
    residual = residuals(candidates)
    best = int(np.argmin(costs(candidates, residual)))
    commands, cost, error = candidates[best], costs(candidates, residual)[best], residual[best]
    for _ in range(_ROUNDS):
        ahead, behind = np.clip(commands + _OFFSETS, -1, 1), np.clip(commands - _OFFSETS, -1, 1)
        rise = np.subtract(*np.split(residuals(np.concatenate([ahead, behind])), 2))
        slope = rise.T / np.diag(ahead - behind)
        gradient = slope.T @ error + _EFFORT * commands
        curvature = slope.T @ slope + (_EFFORT + _DAMPINGS[:, None, None]) * np.eye(THRUSTERS)
        steps = np.linalg.solve(curvature, np.broadcast_to(gradient[:, None], (len(_DAMPINGS), THRUSTERS, 1)))[..., 0]
        candidates = np.clip(commands - steps, -1, 1)
        residual = residuals(candidates)
        trial = costs(candidates, residual)
        best = int(np.argmin(trial))
        if trial[best] < cost:
            commands, cost, error = candidates[best], trial[best], residual[best]
    return commands
