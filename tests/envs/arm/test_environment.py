"""Arm: the Gymnasium environment."""

from collections.abc import Callable

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from msr_envs.arm import NOMINAL, Arm, ArmEnv
from msr_envs.arm.body import MIDDLE, RANGE
from msr_envs.arm.controller import choose_command

RENDER = """
import numpy as np
from msr_envs.arm import NOMINAL, ArmEnv
env = ArmEnv(NOMINAL, render_mode="rgb_array")
env.reset(seed=0)
first = env.render()
env.step(np.full(6, 0.8, np.float32))
second = env.render()
env.close()
assert first.shape == second.shape == (480, 480, 3) and first.dtype == np.uint8, first.shape
assert first.std() > 5 and (first != second).any(-1).sum() > 500
"""


def action(command: np.ndarray) -> np.ndarray:
    """The action `(6,)` that moves to the command `(5,)`, with a closed gripper."""
    base = np.arctan2(np.sin(command[0]), np.cos(command[0])) / np.pi
    return np.array([base, *(command - MIDDLE)[1:] / RANGE, 0.0], np.float32)


def test_environment_passes_the_checker() -> None:
    """Gymnasium's own checker finds nothing. Its warnings are errors here."""
    check_env(ArmEnv(), skip_render_check=True)


def test_a_controller_that_knows_the_arm_reaches_the_targets() -> None:
    """Observation, action and reward mean what they say, and the episode is truncated after its last move."""
    env = Arm().make_env(NOMINAL)
    observation, info = env.reset(seed=0)
    assert info["task"] == NOMINAL
    predict, held = Arm().true_model(NOMINAL), env.unwrapped.course.start  # pyright: ignore[reportAttributeAccessIssue]
    terminated = truncated = False
    moves = 0
    while not (terminated or truncated):
        np.testing.assert_allclose(observation[:2], [np.cos(held[0]), np.sin(held[0])], atol=1e-6)
        held = choose_command(predict, held, (observation[7:10] + observation[10:]).astype(np.float64))
        observation, reward, terminated, truncated, more = env.step(action(held))
        np.testing.assert_allclose(observation[2:7], action(held)[1:], atol=1e-6)
        assert float(reward) == -more["fingertip_error"]
        assert float(reward) > -0.003
        moves += 1
    assert (moves, terminated) == (24, False)
    env.close()


def test_the_base_takes_the_shorter_way() -> None:
    """From just left of behind to just right of behind, it does not turn round the front."""
    env = ArmEnv(NOMINAL)
    env.reset(seed=0)
    for base in (0.5, 0.97, -0.97):
        env.step(np.array([base, 0, 0, 0, 0, 0], np.float32))
    assert env.held[0] == pytest.approx(1.03 * np.pi)


def test_environment_draws_tasks_by_seed() -> None:
    """Without a task, each reset draws one. Equal seeds give equal tasks."""
    env = gymnasium.make("msr/Arm-v0")
    first, second, other = (env.reset(seed=seed)[1]["task"] for seed in (1, 1, 2))
    assert first == second != other
    assert env.reset(options={"task": NOMINAL})[1]["task"] == NOMINAL
    env.close()


def test_rendering(draw: Callable[[str], None]) -> None:
    """The picture shows that the arm moves."""
    draw(RENDER)
