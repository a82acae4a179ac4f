"""The ring-nav family: imitate an unknown operator, with an unknown mounting, from ten samples that look forward.

The group is C16, with 16 beams. A turn of the world by 22.5 degrees moves every reading to the next beam, and turns the
goal and the command.
"""

from typing import NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from msr_envs.query_sets import require_even
from msr_envs.ring_nav.environment import (
    GOAL_DISTANCE,
    GOAL_RADIUS,
    GOAL_SATURATION,
    OBSTACLE_RADIUS,
    RATE_HZ,
    ROBOT_RADIUS,
    STEPS,
    World,
    draw_world,
    goal_distance,
    has_collided,
    move,
    observe,
)
from msr_envs.ring_nav.operator import BEAMS, MAX_SPEED, RingTask, draw_tasks, operator, operator_command
from msr_envs.splits import split_generator
from msr_envs.symmetry import DeclaredSymmetry, Ring, SymmetryGroup, Vector, cyclic
from msr_runtime.errors import FamilyError
from msr_runtime.task import Adapt, ClosedLoop, Field, Loss, Predict, Split, TaskBatch

SHOTS = 10
"""Support samples per task in closed loop."""
EPISODES = 6
"""Episodes per task in closed loop."""
SCENE_OBSTACLES = 4
"""Obstacles in the scene of one sample."""
SECTOR = (1.0, 0.4)
"""Largest angle between straight ahead and the obstacles, and the goal, in sector samples, rad."""
WIDE = (np.pi, np.pi)
"""The same two angles in wide samples."""


class Paths(NamedTuple):
    """Episodes of `RingNav.drive`, in m in the world's frame."""

    positions: NDArray[np.float64]
    """`(episodes, 251, 2)`: position of the robot, from the start on. It stays constant after an episode has ended."""
    reached: NDArray[np.bool_]
    """`(episodes,)`: whether the robot reached the goal."""
    world: World
    """Goals `(episodes, 2)`, obstacles' centers `(episodes, 5, 2)` and radii `(episodes, 5)`."""


class RingNav(DeclaredSymmetry):
    """The ring-nav family. It is a `DeclaredFamily` and a `ClosedLoopFamily`.

    With n beams, the group is C_n: element i shifts the proximities by i beams, and turns goal and command by i steps.

    Samples of the query set `sector` look forward: the obstacles are within 1 rad of straight ahead and the goal within
    0.4 rad. In samples of the query set `wide`, they are in any direction. The support set consists of sector samples.

    A subclass that overrides `draw_task` changes the tasks everywhere.

    Args:
        beams: The number of range beams, 3 or more. With another number than 16, it is part of the family's name.

    Raises:
        FamilyError: There are too few or too many beams.

    """

    name: str = "ring-nav"
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("sector", "wide")
    rate_hz: float = RATE_HZ

    def __init__(self, beams: int = BEAMS) -> None:
        if beams < 3:
            raise FamilyError(f"{self.name}: beams is {beams}, but a ring has 3 or more")
        self.beams: int = beams
        if beams != BEAMS:
            self.name = f"{self.name}-{beams}"
        self.symmetry: SymmetryGroup = cyclic(beams)
        reach = GOAL_SATURATION
        self.inputs: tuple[Field, ...] = (
            Field(name="proximity", shape=(beams,), unit="1", low=0.0, high=1.0, representation=Ring()),
            Field(name="goal", shape=(2,), unit="m", low=-reach, high=reach, kind="position", representation=Vector()),
        )
        self.outputs: tuple[Field, ...] = (
            Field(
                name="velocity",
                shape=(2,),
                unit="m/s",
                low=-MAX_SPEED,
                high=MAX_SPEED,
                kind="velocity",
                representation=Vector(),
            ),
        )

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw new tasks. Every sample has its own scene.

        The support set and the first half of the queries are sector samples. The second half are wide samples.

        Returns:
            x `(tasks, shots or queries, beams + 2)` and y `(tasks, shots or queries, 2)`, float32.

        Raises:
            FamilyError: `queries` is odd, or `split` is unknown.

        """
        require_even(self.name, queries)
        child = split_generator(self.name, rng, split)
        task = self._draw_tasks(child, tasks)
        near_x, near_y = self._demonstrate(child, task, shots + queries // 2, SECTOR)
        wide_x, wide_y = self._demonstrate(child, task, queries // 2, WIDE)
        query_x = np.concatenate([near_x[:, shots:], wide_x], 1)
        query_y = np.concatenate([near_y[:, shots:], wide_y], 1)
        return TaskBatch(near_x[:, :shots], near_y[:, :shots], query_x, query_y)

    def draw_task(self, rng: np.random.Generator) -> RingTask:
        """Draw one task. Training, `evaluate` and the environment draw as this method does."""
        return draw_tasks(rng, 1)[0]

    def _draw_tasks(self, rng: np.random.Generator, tasks: int) -> RingTask:
        if type(self).draw_task is RingNav.draw_task:
            return draw_tasks(rng, tasks)  # all at once: published results name the tasks that this draws
        return RingTask.stack([self.draw_task(rng) for _ in range(tasks)])

    def demonstrate(
        self, rng: np.random.Generator, task: RingTask, shots: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return sector samples of one task's operator: x `(shots, beams + 2)`, y `(shots, 2)`, float32."""
        x, y = self._demonstrate(rng, task[None], shots, SECTOR)
        return x[0], y[0]

    def make_env(self, task: RingTask | None = None, render_mode: str | None = None) -> gymnasium.Env:
        """Return the registered environment `msr/RingNav-v0` with one task. Without it, every reset draws a task."""
        return gymnasium.make(
            "msr/RingNav-v0", task=task, render_mode=render_mode, beams=self.beams, draw=self.draw_task
        )

    def evaluate(self, adapt: Adapt | None, rng: np.random.Generator, tasks: int, split: Split) -> ClosedLoop:
        """Adapt to 10 sector samples per task, then drive 6 episodes per task.

        If `adapt` is None, the operator itself drives.

        Returns:
            The share of goals reached, one number per task.

        """
        child = split_generator(self.name, rng, split)
        task = self._draw_tasks(child, tasks)
        support_x, support_y = self._demonstrate(child, task, SHOTS, SECTOR)
        values = np.empty(tasks)
        for index in range(tasks):
            predict = adapt(support_x[index], support_y[index]) if adapt else None
            values[index] = self.drive(task[index], predict, child, EPISODES).reached.mean()
        return ClosedLoop("goals reached", "1", True, values)

    def drive(self, task: RingTask, predict: Predict | None, rng: np.random.Generator, episodes: int) -> Paths:
        """Drive one task through `episodes` new worlds at the same time.

        An episode ends at the goal, at a collision or after 25 s.

        Args:
            task: The task.
            predict: The controller: x `(episodes, beams + 2)` to commands `(episodes, 2)`. None: the operator drives.
            rng: Source of the worlds.
            episodes: Number of episodes.

        """
        world = draw_world(rng, (episodes,))
        controller = predict or operator(task)
        position = np.zeros((episodes, 2))
        positions = np.zeros((episodes, STEPS + 1, 2))
        reached, ended = np.zeros(episodes, bool), np.zeros(episodes, bool)
        for step in range(STEPS):
            command = controller(observe(task, world, position, self.beams).astype(np.float32))
            position = np.where(ended[:, None], position, move(task, position, command.astype(np.float64)))
            positions[:, step + 1] = position
            collided = has_collided(world, position)
            reached |= ~ended & ~collided & (goal_distance(world, position) < GOAL_RADIUS)
            ended |= collided | reached
            if ended.all():  # no robot moves any more: fill in the rest
                positions[:, step + 2 :] = position[:, None]
                break
        return Paths(positions, reached, world)

    def _demonstrate(
        self, rng: np.random.Generator, task: RingTask, samples: int, spread: tuple[float, float]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what the operators `task` `(tasks,)` do in random scenes.

        `spread` holds the largest angles of the obstacles and of the goal from straight ahead, rad.

        Returns:
            x `(tasks, samples, beams + 2)` and y `(tasks, samples, 2)`.

        """
        shape = (len(task), samples)
        bearing = rng.uniform(-spread[0], spread[0], (*shape, SCENE_OBSTACLES))
        radii = rng.uniform(*OBSTACLE_RADIUS, (*shape, SCENE_OBSTACLES))
        distance = radii + rng.uniform(ROBOT_RADIUS, 2.0, radii.shape)
        goal_bearing = rng.uniform(-spread[1], spread[1], shape)
        goal = rng.uniform(0.0, GOAL_DISTANCE, shape)[..., None] * _unit(goal_bearing)
        world = World(goal, distance[..., None] * _unit(bearing), radii)
        each = task[:, None]  # one axis more, for the samples
        x = observe(each, world, np.zeros((*shape, 2)), self.beams)
        return x.astype(np.float32), operator_command(each, x).astype(np.float32)


def _unit(angle: NDArray) -> NDArray:
    return np.stack([np.cos(angle), np.sin(angle)], -1)
