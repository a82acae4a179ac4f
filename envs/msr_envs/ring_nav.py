"""The ring-nav family: imitate an unknown operator on an unknown mounting from ten samples that look one way.

Symmetry: C16. Turning the world by 22.5 degrees moves every reading to the next beam and turns goal and command.
"""

from typing import NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from msr_envs.groups import direct_sum, random_action, rotation, shift
from msr_envs.ring_nav_env import (
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
from msr_envs.ring_nav_operator import BEAMS, MAX_SPEED, RingTask, draw_tasks, operator, operator_command
from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, Adapt, ClosedLoop, Field, Group, Loss, Predict, Split, TaskBatch

SHOTS = 10
EPISODES = 6
SCENE_OBSTACLES = 4
SECTOR = (1.0, 0.4)
"""Largest bearing of obstacles and of goals from ahead, rad, in the support and the sector queries."""
WIDE = (np.pi, np.pi)
"""The same for the wide queries."""

_GROUP = Group("C16", direct_sum(shift(BEAMS), rotation(BEAMS)), rotation(BEAMS))


class Paths(NamedTuple):
    """What `RingNav.drive` did, episode by episode, in metres in the world's frame."""

    positions: NDArray[np.float64]
    """`(episodes, 251, 2)`: from the start on; an episode that has ended stays where it is."""
    reached: NDArray[np.bool_]
    """`(episodes,)`"""
    world: World
    """Goals `(episodes, 2)`, obstacles' centres `(episodes, 5, 2)` and radii `(episodes, 5)`."""


class RingNav:
    """The family; it has no state. Meets `SymmetricFamily` and `ClosedLoopFamily`."""

    name: str = "ring-nav"
    inputs: tuple[Field, ...] = (
        Field(name="proximity", shape=(BEAMS,), unit="1", low=0.0, high=1.0),
        Field(name="goal", shape=(2,), unit="m", low=-GOAL_SATURATION, high=GOAL_SATURATION),
    )
    outputs: tuple[Field, ...] = (Field(name="velocity", shape=(2,), unit="m/s", low=-MAX_SPEED, high=MAX_SPEED),)
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("sector", "wide")
    rate_hz: float = RATE_HZ

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Fresh tasks with single scenes: x `(tasks, shots or queries, 18)`, y `(tasks, shots or queries, 2)`, float32.

        Raises FamilyError if `queries` is odd or `split` is unknown.
        """
        if queries % 2:
            raise FamilyError(
                f"ring-nav: {queries} queries were asked for, but they are cut into equal sets, 'sector' and "
                "'wide', so their number must be even."
            )
        child = _split_generator(rng, split)
        task = draw_tasks(child, tasks)
        near_x, near_y = _demonstrate(child, task, shots + queries // 2, SECTOR)
        wide_x, wide_y = _demonstrate(child, task, queries // 2, WIDE)
        query_x = np.concatenate([near_x[:, shots:], wide_x], 1)
        query_y = np.concatenate([near_y[:, shots:], wide_y], 1)
        return TaskBatch(near_x[:, :shots], near_y[:, :shots], query_x, query_y)

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Turn every example x `(..., 18)` and y `(..., 2)` by its own random multiple of 22.5 degrees."""
        return random_action(_GROUP, rng, x, y)

    def group(self) -> Group:
        """C16: beams shifted, goal and command turned."""
        return _GROUP

    def draw_task(self, rng: np.random.Generator) -> RingTask:
        """Draw one task, for a picture or an environment."""
        return draw_tasks(rng, 1)[0]

    def demonstrate(
        self, rng: np.random.Generator, task: RingTask, shots: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Ask the operator of one task for sector samples: x `(shots, 18)`, y `(shots, 2)`."""
        x, y = _demonstrate(rng, task[None], shots, SECTOR)
        return x[0], y[0]

    def make_env(self, task: RingTask, render_mode: str | None = None) -> gymnasium.Env:
        """The registered environment `msr/RingNav-v0`, set to one task."""
        return gymnasium.make("msr/RingNav-v0", task=task, render_mode=render_mode)

    def evaluate(self, adapt: Adapt | None, rng: np.random.Generator, tasks: int, split: Split) -> ClosedLoop:
        """Share of goals reached in 6 episodes a task after adapting to 10 sector samples; None drives the operator."""
        child = _split_generator(rng, split)
        task = draw_tasks(child, tasks)
        support_x, support_y = _demonstrate(child, task, SHOTS, SECTOR)
        values = np.empty(tasks)
        for index in range(tasks):
            predict = adapt(support_x[index], support_y[index]) if adapt else None
            values[index] = self.drive(task[index], predict, child, EPISODES).reached.mean()
        return ClosedLoop("goals reached", "1", True, values)

    def drive(self, task: RingTask, predict: Predict | None, rng: np.random.Generator, episodes: int) -> Paths:
        """Drive one task through `episodes` fresh worlds at once, with `predict` or, if it is None, the operator.

        An episode ends at the goal, on collision or after 25 s; only the first counts as reached.
        """
        world = draw_world(rng, (episodes,))
        controller = predict or operator(task)
        position = np.zeros((episodes, 2))
        positions = np.zeros((episodes, STEPS + 1, 2))
        reached, ended = np.zeros(episodes, bool), np.zeros(episodes, bool)
        for step in range(STEPS):
            command = controller(observe(task, world, position).astype(np.float32))
            position = np.where(ended[:, None], position, move(task, position, command.astype(np.float64)))
            positions[:, step + 1] = position
            collided = has_collided(world, position)
            reached |= ~ended & ~collided & (goal_distance(world, position) < GOAL_RADIUS)
            ended |= collided | reached
            if ended.all():
                positions[:, step + 2 :] = position[:, None]
                break
        return Paths(positions, reached, world)


def _split_generator(rng: np.random.Generator, split: Split) -> np.random.Generator:
    """A generator of its own for each split, so that equal states of `rng` still give different tasks."""
    if split not in SPLITS:
        raise FamilyError(f"ring-nav: split '{split}' is unknown; use one of {', '.join(SPLITS)}.")
    return np.random.default_rng([SPLITS.index(split), *rng.integers(2**32, size=4)])


def _demonstrate(
    rng: np.random.Generator, task: RingTask, samples: int, spread: tuple[float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the operators `task` `(tasks,)` do in random scenes: x `(tasks, samples, 18)`, y `(tasks, samples, 2)`."""
    shape = (len(task), samples)
    bearing = rng.uniform(-spread[0], spread[0], (*shape, SCENE_OBSTACLES))
    radii = rng.uniform(*OBSTACLE_RADIUS, (*shape, SCENE_OBSTACLES))
    distance = radii + rng.uniform(ROBOT_RADIUS, 2.0, radii.shape)
    goal_bearing = rng.uniform(-spread[1], spread[1], shape)
    goal = rng.uniform(0.0, GOAL_DISTANCE, shape)[..., None] * _unit(goal_bearing)
    world = World(goal, distance[..., None] * _unit(bearing), radii)
    each = task[:, None]
    x = observe(each, world, np.zeros((*shape, 2)))
    return x.astype(np.float32), operator_command(each, x).astype(np.float32)


def _unit(angle: NDArray) -> NDArray:
    return np.stack([np.cos(angle), np.sin(angle)], -1)
