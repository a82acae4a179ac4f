"""Quadrotor's Gymnasium environment."""

from collections.abc import Callable

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from msr_envs.quadrotor import Quadrotor, QuadrotorEnv, QuadTask
from msr_envs.quadrotor.vehicle import GRAVITY, LARGEST_THRUST

PLAIN = QuadTask(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
HOVER = np.array([0, 0, 2 * GRAVITY / LARGEST_THRUST - 1], np.float32)

RENDER = """
import numpy as np
from msr_envs.quadrotor import QuadrotorEnv
env = QuadrotorEnv(render_mode="rgb_array")
env.reset(seed=0)
first = env.render()
for _ in range(30):
    env.step(np.array([0.2, 0, 0.1], np.float32))
second = env.render()
env.close()
assert first.shape == second.shape == (480, 480, 3) and first.dtype == np.uint8, first.shape
assert first.std() > 5 and (first != second).any(-1).sum() > 500
"""


def test_environment_passes_the_checker() -> None:
    """Gymnasium's own checker finds nothing. Its warnings are errors here."""
    check_env(QuadrotorEnv(), skip_render_check=True)


def test_registered_environment_follows_its_actions() -> None:
    """Tilt goes ahead and to the left of the heading, thrust goes up, and the reward is minus the distance."""
    env = Quadrotor().make_env(PLAIN)
    observation, info = env.reset(seed=3)
    assert info["task"] == PLAIN
    start = observation[3:6]
    for _ in range(25):
        observation, reward, *_ = env.step(HOVER + np.array([0.3, -0.2, 0.1], np.float32))
    gained = observation[3:6] - start
    assert gained[0] == pytest.approx(-1.5 * gained[1], rel=0.05)
    assert (gained[[0, 2]] > 0.3).all()
    np.testing.assert_allclose(observation[15:17], [0.18, -0.12], atol=0.01)
    assert float(reward) == pytest.approx(-np.linalg.norm(observation[:3]), rel=1e-5)
    env.close()


def test_an_episode_ends_after_ten_seconds_or_on_the_ground() -> None:
    """A hovering vehicle is truncated. A vehicle without thrust hits the ground, and the rest counts as lost."""
    env = gymnasium.make("msr/Quadrotor-v0", task=PLAIN)
    env.reset(seed=0)
    steps, ended = 0, (False, False)
    while not any(ended):
        _, _, *ended, _ = env.step(HOVER)
        steps += 1
    assert (steps, *ended) == (500, False, True)
    env.reset(seed=0)
    fallen, reward, ended = 0, 0.0, (False, False)
    while not any(ended):
        _, reward, *ended, _ = env.step(np.array([0, 0, -1], np.float32))
        fallen += 1
    assert ended == [True, False]
    assert float(reward) < -5 * (500 - fallen)
    env.close()


def test_environment_draws_tasks_and_wind_by_seed() -> None:
    """Without a task, each reset draws one. Equal seeds give equal tasks and equal wind."""
    env = gymnasium.make("msr/Quadrotor-v0")
    seen = []
    for seed in (1, 1, 2):
        _, info = env.reset(seed=seed)
        seen.append((info["task"], env.step(HOVER)[0][12:15].tolist()))
    assert seen[0] == seen[1]
    assert seen[1][0] != seen[2][0]
    assert seen[1][1] != seen[2][1]
    assert env.reset(options={"task": PLAIN})[1]["task"] == PLAIN
    env.close()


def test_rendering(draw: Callable[[str], None]) -> None:
    """The picture shows that the vehicle moves."""
    draw(RENDER)
