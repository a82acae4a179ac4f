"""The simulator of ring-nav, and its Gymnasium environment.

* Robot: it is round and holonomic. It drives in every direction and never turns, so the body's frame stays parallel to
  the world's frame. It has 16 range beams, or another number, and moves among round obstacles.
* Task: the mounting angle of the drive, the response of the sensors and the operator (`RingTask`).
* State: the position (2, m) in the world's frame.
* Group: C16. A turn of the world by 22.5 degrees moves every reading to the next beam. The vector to the goal and the
  command turn too. This is exact for every task.

`msr_envs.ring_nav` describes x and y of the family. All functions take any leading axes `(...)`: samples, episodes or
none.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from msr_envs.actions import checked_action
from msr_envs.plane import turn
from msr_envs.ring_nav.operator import BEAMS, MAX_SPEED, RingTask, beam_directions, draw_tasks, saturate

RATE_HZ = 10.0
"""Control rate, Hz."""
STEPS = 250
"""Control periods in an episode, which takes 25 s at most."""
BEAM_RANGE = 2.0
"""Range of a beam from the robot's center, m."""
ROBOT_RADIUS = 0.2
"""Radius of the robot, m."""
OBSTACLE_RADIUS = (0.15, 0.35)
"""Smallest and largest radius of an obstacle, m."""
GOAL_RADIUS = 0.3
"""The robot has reached the goal when its center is closer than this, m."""
GOAL_DISTANCE = 4.0
"""Distance from the start to the goal, m."""
GOAL_SATURATION = 1.0
"""The robot sees a goal that is further away at this distance, m."""
OBSTACLES = 5
"""Number of obstacles in a world."""

_PIXELS, _VIEW = 256, 10.0


class World(NamedTuple):
    """Goals and obstacles in the world's frame, in m. The robot starts at the origin."""

    goal: NDArray[np.float64]
    """Position of the goal, `(..., 2)`."""
    centers: NDArray[np.float64]
    """Centers of the obstacles, `(..., obstacles, 2)`."""
    radii: NDArray[np.float64]
    """Radii of the obstacles, `(..., obstacles)`."""


def draw_world(rng: np.random.Generator, shape: tuple[int, ...] = ()) -> World:
    """Draw worlds of the given leading shape.

    A goal is `GOAL_DISTANCE` away in a random direction. `OBSTACLES` obstacles lie around the way to it.
    """
    direction = rng.uniform(-np.pi, np.pi, shape)
    along = rng.uniform(0.6, GOAL_DISTANCE - 0.6, (*shape, OBSTACLES))
    across = rng.uniform(-3.0, 3.0, (*shape, OBSTACLES))
    radii = rng.uniform(*OBSTACLE_RADIUS, (*shape, OBSTACLES))
    goal = GOAL_DISTANCE * np.stack([np.cos(direction), np.sin(direction)], -1)
    return World(goal, turn(np.stack([along, across], -1), direction[..., None] if shape else direction), radii)


def nearness(world: World, position: NDArray, beams: int = BEAMS) -> NDArray:
    """Return the nearness `(..., beams)` that ideal beams see from `position` `(..., 2)`.

    Nearness is `1 - distance / 2 m`, measured from the robot's center. It is 0 if nothing is in range.
    """
    relative = world.centers - position[..., None, :]
    seen, directions = np.full((*position.shape[:-1], beams), BEAM_RANGE), beam_directions(beams)
    # Where does a ray meet a circle? `ahead` and `aside` are the distances of its center along and across the ray. One
    # obstacle at a time saves memory.
    for obstacle in range(relative.shape[-2]):
        x, y = relative[..., obstacle, 0, None], relative[..., obstacle, 1, None]
        ahead = x * directions[:, 0] + y * directions[:, 1]
        aside = y * directions[:, 0] - x * directions[:, 1]
        depth = world.radii[..., obstacle, None] ** 2 - aside**2
        distance = ahead - np.sqrt(np.maximum(depth, 0.0))
        np.minimum(seen, distance, out=seen, where=(depth > 0.0) & (ahead > 0.0))
    return 1.0 - np.maximum(seen, 0.0) / BEAM_RANGE


def observe(task: RingTask, world: World, position: NDArray, beams: int = BEAMS) -> NDArray:
    """Return the network's input x `(..., beams + 2)`, float64.

    It holds the proximities, then the vector to the goal in the body's frame, shortened to at most 1 m.
    """
    proximity = nearness(world, position, beams) ** task.gamma[..., None]
    return np.concatenate([proximity, saturate(world.goal - position, GOAL_SATURATION)], -1)


def move(task: RingTask, position: NDArray, command: NDArray) -> NDArray:
    """Follow a command `(..., 2)` in the drive's frame, m/s, for one control period.

    Returns:
        The next position `(..., 2)`, m.

    """
    return position + turn(saturate(command, MAX_SPEED), -task.mount) / RATE_HZ


def has_collided(world: World, position: NDArray) -> NDArray[np.bool_]:
    """Tell whether the robot at `position` `(..., 2)` overlaps an obstacle: `(...)`."""
    relative = world.centers - position[..., None, :]
    return np.any(np.hypot(relative[..., 0], relative[..., 1]) < world.radii + ROBOT_RADIUS, -1)


def goal_distance(world: World, position: NDArray) -> NDArray[np.float64]:
    """Return the distance `(...)` from `position` `(..., 2)` to the goal, m."""
    relative = world.goal - position
    return np.hypot(relative[..., 0], relative[..., 1])


class RingNavEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One robot drives to one goal. It is registered as `msr/RingNav-v0`, with 250 control periods per episode.

    Observation `(18,)` float32: 16 proximities, one per beam, then the vector to the goal in the body's frame, at most
    1 m long. Action `(2,)` float32: velocity command in the drive's frame, m/s. Reward: the distance in m by which the
    goal came closer, minus 1 at a collision. An episode ends at the goal (`info["reached"]`) or at a collision
    (`info["collided"]`).

    Args:
        task: The mounting and the sensor. Without it, and without `options={"task": ...}`, every reset draws a new one.
        render_mode: `rgb_array`, or None for no pictures.
        beams: The number of range beams.
        draw: Draws the task of a reset that is given none.

    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(RATE_HZ)}

    def __init__(
        self,
        task: RingTask | None = None,
        render_mode: str | None = None,
        beams: int = BEAMS,
        draw: Callable[[np.random.Generator], RingTask] = lambda rng: draw_tasks(rng, 1)[0],
    ) -> None:
        low = np.concatenate([np.zeros(beams), np.full(2, -GOAL_SATURATION)]).astype(np.float32)
        self.observation_space = spaces.Box(low, np.ones(beams + 2, np.float32))
        self.action_space = spaces.Box(-MAX_SPEED, MAX_SPEED, (2,), np.float32)
        self.render_mode = render_mode
        self._fixed_task, self._beams, self._draw = task, beams, draw

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a new world, and a new task unless one is given (`options={"task": ...}`)."""
        super().reset(seed=seed)
        given = (options or {}).get("task", self._fixed_task)
        self.task = self._draw(self.np_random) if given is None else given
        self.world = draw_world(self.np_random)
        self.position = np.zeros(2)
        return self._observation(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Follow the command `action` `(2,)` for one control period of 0.1 s.

        Raises:
            InputError: If the action has another shape, is not finite, or is outside the action space.
        """
        command = checked_action("RingNav", action, 2, MAX_SPEED)
        before = goal_distance(self.world, self.position)
        self.position = move(self.task, self.position, command)
        after = goal_distance(self.world, self.position)
        collided = bool(has_collided(self.world, self.position))
        reached = bool(after < GOAL_RADIUS) and not collided
        info = {"reached": reached, "collided": collided}
        return self._observation(), float(before - after) - float(collided), reached or collided, False, info

    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the world from above, `(256, 256, 3)` uint8, or None without a render mode.

        The picture is 10 m wide, and the start is in its middle.
        """
        if self.render_mode is None:
            return None
        axis = (np.arange(_PIXELS) + 0.5) / _PIXELS * _VIEW - _VIEW / 2
        image = np.full((_PIXELS, _PIXELS, 3), 255, np.uint8)
        discs = [(self.world.goal, GOAL_RADIUS, (60, 160, 80))]
        discs += [(c, r, (120, 120, 120)) for c, r in zip(self.world.centers, self.world.radii, strict=True)]
        discs += [(self.position, ROBOT_RADIUS, (40, 90, 200))]
        for (x, y), radius, color in discs:
            image[np.hypot(axis[None, :] - x, -axis[:, None] - y) < radius] = color
        return image

    def _observation(self) -> NDArray[np.float32]:
        return observe(self.task, self.world, self.position, self._beams).astype(np.float32)
