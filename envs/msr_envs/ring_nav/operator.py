"""The operator that the ring-nav robot imitates: the control law, its unknown parameters and the unknown mounting.

The law reads only what the robot's network reads. A network that knew the task could therefore imitate it exactly. The
law commutes with every turn by a whole number of beams, because all beams share one response.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msr_envs.plane import turn
from msr_runtime.task import Predict

BEAMS = 16
"""Number of range beams, if nobody asks for another one."""
MAX_SPEED = 1.0
"""Largest speed of a command, m/s."""
KNOTS = np.array([0.5, 0.58, 0.66, 0.74, 0.82])
"""Nearness from which each entry of `RingTask.radial` acts. Nearness is `1 - distance / 2 m`: the operator ignores
obstacles beyond 1 m, and the robot touches an obstacle at 0.9."""


@cache
def beam_directions(beams: int) -> NDArray[np.float64]:
    """Return `(beams, 2)`: unit vectors in the body's frame, counter-clockwise from straight ahead."""
    angles = 2 * np.pi * np.arange(beams) / beams
    return np.stack([np.cos(angles), np.sin(angles)], -1)


@dataclass(frozen=True)
class RingTask:
    """One task, or an array of tasks, float64. `(...)` is empty for one task. Indexing indexes every field.

    `draw_tasks` draws each number uniformly in the stated range.
    """

    mount: NDArray[np.float64]
    """`(...)`: mounting angle, the yaw of the body in the drive's frame, rad. -pi to pi."""
    gamma: NDArray[np.float64]
    """`(...)`: exponent of the sensors' response. A proximity is the nearness to this power. 0.5 to 2."""
    radial: NDArray[np.float64]
    """`(..., 5)`: the push away from an obstacle is piecewise linear in its nearness. Each entry is the slope, in m/s,
    that is added at one of `KNOTS`. 0 to 1."""
    tangential: NDArray[np.float64]
    """`(...)`: sideways push, as a share of the push away. 0.25 to 1.2, with either sign."""
    goal_gain: NDArray[np.float64]
    """`(...)`: speed toward the goal per meter of the shortened vector to the goal, 1/s. 0.5 to 1."""
    swirl: NDArray[np.float64]
    """`(...)`: speed at right angles to that vector, per meter of it, 1/s. -0.3 to 0.3."""

    def __getitem__(self, index: Any) -> "RingTask":
        return RingTask(*(getattr(self, field.name)[index] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.mount)

    @classmethod
    def stack(cls, tasks: Sequence["RingTask"]) -> "RingTask":
        """Return single tasks as an array of tasks."""
        return cls(*(np.stack([getattr(task, field.name) for task in tasks]) for field in fields(cls)))


def draw_tasks(rng: np.random.Generator, tasks: int) -> RingTask:
    """Draw new tasks. Every field of the result is `(tasks, ...)`."""
    return RingTask(
        mount=rng.uniform(-np.pi, np.pi, tasks),
        gamma=rng.uniform(0.5, 2.0, tasks),
        radial=rng.uniform(0.0, 1.0, (tasks, len(KNOTS))),
        tangential=rng.uniform(0.25, 1.2, tasks) * rng.choice([-1.0, 1.0], tasks),
        goal_gain=rng.uniform(0.5, 1.0, tasks),
        swirl=rng.uniform(-0.3, 0.3, tasks),
    )


def saturate(vector: NDArray, limit: float) -> NDArray:
    """Shorten vectors `(..., 2)` that are longer than `limit` to that length."""
    return vector / np.maximum(1.0, np.hypot(vector[..., 0], vector[..., 1]) / limit)[..., None]


def operator_command(task: RingTask, x: NDArray) -> NDArray:
    """Return the operator's velocity command `(..., 2)` in the drive's frame, m/s, for x `(..., beams + 2)`.

    The command is the sum of a push and a pull, shortened to at most `MAX_SPEED`. The push: each beam pushes away from
    what it sees, by a piecewise linear function of the nearness, and sideways by a share of that. More beams push less
    each. The pull: toward the goal, and at right angles to it.
    """
    beams = x.shape[-1] - 2
    nearness = x[..., :beams] ** (1.0 / task.gamma[..., None])  # the operator sees the world, not the sensors' response
    response = np.zeros_like(nearness)
    for knot, weight in zip(KNOTS, np.moveaxis(task.radial, -1, 0), strict=True):
        response += weight[..., None] * np.maximum(nearness - knot, 0.0)
    push, pull = -response @ beam_directions(beams) * (BEAMS / beams), x[..., beams:]
    velocity = (
        push
        + task.tangential[..., None] * turn(push, np.pi / 2)
        + task.goal_gain[..., None] * pull
        + task.swirl[..., None] * turn(pull, np.pi / 2)
    )
    return turn(saturate(velocity, MAX_SPEED), task.mount)


def operator(task: RingTask) -> Predict:
    """Return the operator of one task as a controller: x `(batch, beams + 2)` to commands `(batch, 2)`, float32."""
    return lambda x: operator_command(task, x).astype(np.float32)
