"""The ring-nav world: a round holonomic robot with 16 range beams among round obstacles, and its Gymnasium environment.

The robot does not turn, so its body frame stays parallel to the world's. All functions work on any leading axes
`(...)`: samples, episodes or none.
"""

from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from msr_envs.ring_nav_operator import BEAM_DIRECTIONS, BEAMS, MAX_SPEED, RingTask, draw_tasks, saturate, turn

RATE_HZ = 10.0
STEPS = 250
BEAM_RANGE = 2.0
"""m, from the robot's centre"""
ROBOT_RADIUS = 0.2
"""m"""
OBSTACLE_RADIUS = (0.15, 0.35)
"""m"""
GOAL_RADIUS = 0.3
"""m: the robot has arrived when its centre is this near"""
GOAL_DISTANCE = 4.0
"""m, from the start"""
GOAL_SATURATION = 1.0
"""m: a goal further away is seen at this distance"""
OBSTACLES = 5

_PIXELS, _VIEW = 256, 10.0


class World(NamedTuple):
    """Goals and obstacles in the world's frame, in metres; the robot starts at the origin."""

    goal: NDArray[np.float64]
    """`(..., 2)`"""
    centres: NDArray[np.float64]
    """`(..., obstacles, 2)`"""
    radii: NDArray[np.float64]
    """`(..., obstacles)`"""


def draw_world(rng: np.random.Generator, shape: tuple[int, ...] = ()) -> World:
    """Goals `GOAL_DISTANCE` away in random directions, with `OBSTACLES` scattered over the way there."""
    direction = rng.uniform(-np.pi, np.pi, shape)
    along = rng.uniform(0.6, GOAL_DISTANCE - 0.6, (*shape, OBSTACLES))
    across = rng.uniform(-3.0, 3.0, (*shape, OBSTACLES))
    radii = rng.uniform(*OBSTACLE_RADIUS, (*shape, OBSTACLES))
    goal = GOAL_DISTANCE * np.stack([np.cos(direction), np.sin(direction)], -1)
    return World(goal, turn(np.stack([along, across], -1), direction[..., None] if shape else direction), radii)


def nearness(world: World, position: NDArray) -> NDArray:
    """What ideal beams read from `position` `(..., 2)`: `1 - range / 2 m`, `(..., 16)`; 0 where nothing is in range."""
    relative = world.centres - position[..., None, :]
    seen = np.full((*position.shape[:-1], BEAMS), BEAM_RANGE)
    for obstacle in range(relative.shape[-2]):
        x, y = relative[..., obstacle, 0, None], relative[..., obstacle, 1, None]
        ahead = x * BEAM_DIRECTIONS[:, 0] + y * BEAM_DIRECTIONS[:, 1]
        aside = y * BEAM_DIRECTIONS[:, 0] - x * BEAM_DIRECTIONS[:, 1]
        depth = world.radii[..., obstacle, None] ** 2 - aside**2
        distance = ahead - np.sqrt(np.maximum(depth, 0.0))
        np.minimum(seen, distance, out=seen, where=(depth > 0.0) & (ahead > 0.0))
    return 1.0 - np.maximum(seen, 0.0) / BEAM_RANGE


def observe(task: RingTask, world: World, position: NDArray) -> NDArray:
    """The network's input `(..., 18)`, float64: 16 proximities, then the goal in the body frame, saturated at 1 m."""
    proximity = nearness(world, position) ** task.gamma[..., None]
    return np.concatenate([proximity, saturate(world.goal - position, GOAL_SATURATION)], -1)


def move(task: RingTask, position: NDArray, command: NDArray) -> NDArray:
    """Follow a drive-frame command `(..., 2)`, m/s, for one control period: the next position `(..., 2)`."""
    return position + turn(saturate(command, MAX_SPEED), -task.mount) / RATE_HZ


def has_collided(world: World, position: NDArray) -> NDArray[np.bool_]:
    """Whether the robot at `position` `(..., 2)` overlaps an obstacle: `(...)`."""
    relative = world.centres - position[..., None, :]
    return np.any(np.hypot(relative[..., 0], relative[..., 1]) < world.radii + ROBOT_RADIUS, -1)


def goal_distance(world: World, position: NDArray) -> NDArray[np.float64]:
    """Distance from `position` `(..., 2)` to the goal, m: `(...)`."""
    relative = world.goal - position
    return np.hypot(relative[..., 0], relative[..., 1])


class RingNavEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One robot on its way to one goal.

    Observation `(18,)`: proximities and saturated goal. Action `(2,)`: velocity command in the drive's frame, m/s.
    Reward: metres gained on the goal, minus 1 on collision. Ends on arrival (`info["reached"]`) or collision
    (`info["collided"]`).

    `task` fixes mounting and sensor; without it, and without `options={"task": ...}`, every reset draws a fresh one.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(RATE_HZ)}

    def __init__(self, task: RingTask | None = None, render_mode: str | None = None) -> None:
        low = np.concatenate([np.zeros(BEAMS), np.full(2, -GOAL_SATURATION)]).astype(np.float32)
        self.observation_space = spaces.Box(low, np.ones(BEAMS + 2, np.float32))
        self.action_space = spaces.Box(-MAX_SPEED, MAX_SPEED, (2,), np.float32)
        self.render_mode = render_mode
        self._fixed_task = task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a fresh world, and a fresh task unless one is given."""
        super().reset(seed=seed)
        given = (options or {}).get("task", self._fixed_task)
        self.task = draw_tasks(self.np_random, 1)[0] if given is None else given
        self.world = draw_world(self.np_random)
        self.position = np.zeros(2)
        return self._observation(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Follow `action` for one control period."""
        before = goal_distance(self.world, self.position)
        self.position = move(self.task, self.position, np.asarray(action, np.float64))
        after = goal_distance(self.world, self.position)
        collided = bool(has_collided(self.world, self.position))
        reached = bool(after < GOAL_RADIUS) and not collided
        info = {"reached": reached, "collided": collided}
        return self._observation(), float(before - after) - float(collided), reached or collided, False, info

    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The world from above, 10 m wide, the start in the middle: `(256, 256, 3)`; None without a render mode."""
        if self.render_mode is None:
            return None
        axis = (np.arange(_PIXELS) + 0.5) / _PIXELS * _VIEW - _VIEW / 2
        image = np.full((_PIXELS, _PIXELS, 3), 255, np.uint8)
        discs = [(self.world.goal, GOAL_RADIUS, (60, 160, 80))]
        discs += [(c, r, (120, 120, 120)) for c, r in zip(self.world.centres, self.world.radii, strict=True)]
        discs += [(self.position, ROBOT_RADIUS, (40, 90, 200))]
        for (x, y), radius, colour in discs:
            image[np.hypot(axis[None, :] - x, -axis[:, None] - y) < radius] = colour
        return image

    def _observation(self) -> NDArray[np.float32]:
        return observe(self.task, self.world, self.position).astype(np.float32)
