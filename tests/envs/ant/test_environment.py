"""Ant: the Gymnasium environment."""

from collections.abc import Callable

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from msr_envs.ant import Ant, AntTrotEnv
from msr_envs.ant.controller import choose_commands, true_model
from msr_envs.ant.simulator import OBSERVATION, RATES

PLAIN: dict[str, float] = {}
"""Gymnasium's own ant: every factor is 1."""
RENDER = """
import numpy as np
from msr_envs.ant import AntTrotEnv
env = AntTrotEnv({}, render_mode="rgb_array")
env.reset(seed=0)
first = env.render()
for _ in range(4):
    env.step(np.ones(8, np.float32))
second = env.render()
env.close()
assert first.shape == second.shape == (480, 480, 3) and first.dtype == np.uint8, first.shape
assert first.std() > 5 and (first != second).any(-1).sum() > 500
"""


def test_environment_passes_the_checker() -> None:
    """Gymnasium's own checker finds nothing. Its warnings are errors here."""
    check_env(AntTrotEnv(), skip_render_check=True)


def test_a_controller_that_knows_the_ant_trots() -> None:
    """Observation, action and reward mean what they say, and the episode is truncated after 2 s."""
    env = Ant(tasks=(1, 1, 1)).make_env(PLAIN)
    observation, info = env.reset(seed=0)
    assert info["task"] == PLAIN
    trotting = env.unwrapped
    assert isinstance(trotting, AntTrotEnv)
    predict, commands, rewards, ended = true_model(trotting.ant), np.zeros(8), [], [False, False]
    while not any(ended):
        state, angles, rates = np.split(observation.astype(np.float64), [OBSERVATION, OBSERVATION + 8])
        wanted = rates + 8.0 * (angles - 0.05 * rates - state[10:18])
        commands = choose_commands(predict, state, wanted - state[RATES], commands)
        observation, reward, *ended, more = env.step(commands.astype(np.float32))
        assert float(reward) == -more["joint_error"]
        rewards.append(float(reward))
    assert (len(rewards), *ended) == (40, False, True)
    assert np.mean(rewards) > -0.1
    env.close()


def test_environment_draws_tasks_by_seed() -> None:
    """Without a task, each reset draws one. Equal seeds give equal tasks."""
    env = gymnasium.make("msr/Ant-v0")
    first, second, other = (env.reset(seed=seed)[1]["task"] for seed in (1, 1, 2))
    assert first == second != other
    assert env.reset(options={"task": PLAIN})[1]["task"] == PLAIN
    env.close()


def test_rendering(draw: Callable[[str], None]) -> None:
    """The picture shows that the ant moves."""
    draw(RENDER)
