"""A small simulator: a point that is pushed in the plane, with a mass and a drag of its own."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

PERIOD = 0.1


class Point(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """A point with a velocity `(2,)`. The action is a push `(2,)`. It may end at a speed, or at once."""

    opened, closed = 0, 0

    def __init__(self, mass: float = 1.0, drag: float = 0.1, ends_at: float = np.inf) -> None:
        self.observation_space = spaces.Box(-5.0, 5.0, (2,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.mass, self.drag, self.ends_at = mass, drag, ends_at
        Point.opened += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray, dict]:
        super().reset(seed=seed)
        options = options or {}
        self.mass = options.get("mass", self.mass)
        self.velocity = self.np_random.uniform(-1, 1, 2) * options.get("fastest", 1.0)
        return self.velocity.copy(), {}

    def step(self, action: NDArray) -> tuple[NDArray, float, bool, bool, dict]:
        self.velocity = self.velocity + PERIOD * (np.asarray(action) / self.mass - self.drag * self.velocity)
        return self.velocity.copy(), 0.0, bool(np.abs(self.velocity).max() > self.ends_at), False, {}

    def close(self) -> None:
        Point.closed += 1


class Row(Point):
    """One row of a vector environment: it gets the arrays of all rows and takes its own number."""

    def __init__(self, row: int, ends_at: float) -> None:
        super().__init__(ends_at=ends_at)
        self.row = row

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray, dict]:
        masses = (options or {}).get("mass")
        return super().reset(seed=seed, options={} if masses is None else {"mass": masses[self.row]})


def points(rows: int = 3, mode: AutoresetMode = AutoresetMode.NEXT_STEP, ends_at: float = np.inf) -> VectorEnv:
    """A vector environment whose rows have masses of their own, as a simulator on a GPU has."""
    return SyncVectorEnv([lambda row=row: Row(row, ends_at) for row in range(rows)], autoreset_mode=mode)


class Cart(VectorEnv):
    """Carts on a GPU, as a user writes them: tensors in and out, and a mass for each row."""

    def __init__(self) -> None:
        self.num_envs = 3
        self.single_observation_space = spaces.Box(-5.0, 5.0, (2,), np.float32)
        self.single_action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[torch.Tensor, dict]:
        super().reset(seed=seed)
        self.mass = torch.as_tensor((options or {})["mass"], dtype=torch.float32)
        self.state = torch.as_tensor(self.np_random.uniform(-1, 1, (3, 2)), dtype=torch.float32)
        return self.state, {}

    def step(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict]:
        pushed = torch.stack([self.state[:, 1], actions[:, 0] / self.mass], 1)
        self.state, no = self.state + PERIOD * pushed, torch.zeros(3, dtype=torch.bool)
        return self.state, torch.zeros(3), no, no, {}


def draw(rng: np.random.Generator) -> dict[str, float]:
    """A mass."""
    return {"mass": rng.uniform(0.5, 2.0)}


@pytest.fixture
def point() -> type[Point]:
    return Point
