"""The operator that a ring-nav robot imitates: its law, its unknown parameters and the robot's unknown mounting.

The law reads only what the robot's network reads, so a network that knew the task could imitate it exactly. It commutes
with every turn by a multiple of 22.5 degrees, because all beams share one response.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msr_runtime.task import Predict

BEAMS = 16
MAX_SPEED = 1.0
"""m/s"""
KNOTS = np.array([0.5, 0.58, 0.66, 0.74, 0.82])
"""Nearness at which each radial weight sets in: nothing is done about obstacles beyond 1 m, and contact is at 0.9."""

_ANGLES = 2 * np.pi * np.arange(BEAMS) / BEAMS
BEAM_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], -1)
"""`(16, 2)`: unit vectors in the body frame, counter-clockwise from ahead."""


@dataclass(frozen=True)
class RingTask:
    """One task or an array of tasks, float64; `(...)` is empty for one task. An index acts on all fields alike."""

    mount: NDArray[np.float64]
    """`(...)`: yaw of the body seen from the drive, rad, -pi to pi."""
    gamma: NDArray[np.float64]
    """`(...)`: exponent of the sensor's response, 0.5 to 2."""
    radial: NDArray[np.float64]
    """`(..., 5)`: slopes, m/s, that the push away from an obstacle gains at each of `KNOTS`, 0 to 1."""
    tangential: NDArray[np.float64]
    """`(...)`: sideways push as a share of the push away, 0.25 to 1.2 with either sign."""
    goal_gain: NDArray[np.float64]
    """`(...)`: speed towards the goal per metre of the saturated goal, 1/s, 0.5 to 1."""
    swirl: NDArray[np.float64]
    """`(...)`: speed at right angles to it, 1/s, -0.3 to 0.3."""

    def __getitem__(self, index: Any) -> "RingTask":
        return RingTask(*(getattr(self, field.name)[index] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.mount)


def draw_tasks(rng: np.random.Generator, tasks: int) -> RingTask:
    """`tasks` fresh tasks, every field `(tasks, ...)`."""
    return RingTask(
        mount=rng.uniform(-np.pi, np.pi, tasks),
        gamma=rng.uniform(0.5, 2.0, tasks),
        radial=rng.uniform(0.0, 1.0, (tasks, len(KNOTS))),
        tangential=rng.uniform(0.25, 1.2, tasks) * rng.choice([-1.0, 1.0], tasks),
        goal_gain=rng.uniform(0.5, 1.0, tasks),
        swirl=rng.uniform(-0.3, 0.3, tasks),
    )


def turn(vector: NDArray, angle: NDArray | float) -> NDArray:
    """Turn `(..., 2)` counter-clockwise by `angle` `(...)` in rad."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * vector[..., 0] - sin * vector[..., 1], sin * vector[..., 0] + cos * vector[..., 1]], -1)


def saturate(vector: NDArray, limit: float) -> NDArray:
    """Shorten the vectors `(..., 2)` that are longer than `limit`."""
    return vector / np.maximum(1.0, np.hypot(vector[..., 0], vector[..., 1]) / limit)[..., None]


def operator_command(task: RingTask, x: NDArray) -> NDArray:
    """The operator's velocity command `(..., 2)` in the drive's frame, m/s, for observations x `(..., 18)`.

    Push: each beam pushes away from what it sees, by a piecewise-linear function of nearness, and sideways by a share
    of that. Pull: towards the goal, with a swirl round it. The sum is saturated at `MAX_SPEED`.
    """
    nearness = x[..., :BEAMS] ** (1.0 / task.gamma[..., None])
    response = np.zeros_like(nearness)
    for knot, weight in zip(KNOTS, np.moveaxis(task.radial, -1, 0), strict=True):
        response += weight[..., None] * np.maximum(nearness - knot, 0.0)
    push, pull = -response @ BEAM_DIRECTIONS, x[..., BEAMS:]
    velocity = (
        push
        + task.tangential[..., None] * turn(push, np.pi / 2)
        + task.goal_gain[..., None] * pull
        + task.swirl[..., None] * turn(pull, np.pi / 2)
    )
    return turn(saturate(velocity, MAX_SPEED), task.mount)


def operator(task: RingTask) -> Predict:
    """The operator of one task as a controller: x `(batch, 18)` to commands `(batch, 2)`, float32."""
    return lambda x: operator_command(task, x).astype(np.float32)
