"""What every registered environment must do, whatever its robot."""

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

import msr_envs  # noqa: F401 - registers the environments

_NAMES = sorted(name for name in gymnasium.registry if name.startswith("msr/"))


@pytest.mark.parametrize("name", _NAMES)
def test_an_episode_does_not_depend_on_the_one_before(name: str) -> None:
    """Equal seeds and actions give equal observations, to the last bit, whatever the episode before left behind."""
    env = gymnasium.make(name).unwrapped

    def play(seed: int) -> NDArray:
        env.action_space.seed(seed)
        first = env.reset(seed=seed)[0]
        return np.array([first, *(env.step(env.action_space.sample())[0] for _ in range(10))])

    for seed in range(5):
        observations = play(seed)
        play(seed + 100)
        np.testing.assert_array_equal(play(seed), observations)
    env.close()
