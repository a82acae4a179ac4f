"""A family of your own, whole: a cart with four distance sensors that drives where its operator wants.

Try it: python examples/four_eyes.py, then msr train examples/four_eyes.py:FourEyes runs/four
"""

import numpy as np
from numpy.typing import NDArray

from msr_envs import check_family
from msr_envs.symmetry import DeclaredSymmetry, Ring, Vector, cyclic
from msr_runtime.task import SPLITS, Field, Loss, Split, TaskBatch

DIRECTIONS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])  # the sensors look ahead, left, back, right


class FourEyes(DeclaredSymmetry):
    """Imitates an operator: nearness and wanted velocity in, velocity command out."""

    name = "four-eyes"
    symmetry = cyclic(4)  # quarter turns: they shift the sensors and turn the velocities
    inputs = (
        Field(name="nearness", shape=(4,), unit="1", low=0, high=1, representation=Ring()),
        Field(name="wanted", shape=(2,), unit="m/s", low=-1, high=1, kind="velocity", representation=Vector()),
    )
    outputs = (
        Field(name="velocity", shape=(2,), unit="m/s", low=-3, high=3, kind="velocity", representation=Vector()),
    )
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("sector", "wide")
    rate_hz: float = 20.0

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw carts that differ in what nobody has measured; the support looks ahead only."""
        rng = np.random.default_rng([SPLITS.index(split), *rng.integers(2**32, size=4)])  # splits share no task
        cart = {
            "mount": rng.uniform(-np.pi, np.pi, (tasks, 1)),  # rad, how the wheels are turned under the body
            "gain": rng.uniform(0.5, 1.5, (tasks, 1)),  # how strongly the operator follows the wish
            "push": rng.uniform(0.2, 1.2, (tasks, 1)),  # m/s away from an obstacle that touches
        }
        near = _drive(rng, cart, shots + queries // 2, np.pi / 4)
        wide = _drive(rng, cart, queries - queries // 2, np.pi)
        query_x, query_y = (np.concatenate([a[:, shots:], b], 1) for a, b in zip(near, wide, strict=True))
        return TaskBatch(near[0][:, :shots], near[1][:, :shots], query_x, query_y)


def _drive(rng: np.random.Generator, cart: dict[str, NDArray], samples: int, spread: float) -> tuple[NDArray, NDArray]:
    """What the operator does in random moments: x `(tasks, samples, 6)`, y `(tasks, samples, 2)`, float32."""
    shape = len(cart["mount"]), samples
    bearing, heading = rng.uniform(-spread, spread, (2, *shape))
    obstacle = np.stack([np.cos(bearing), np.sin(bearing)], -1) * rng.uniform(0.0, 1.0, (*shape, 1))
    nearness = np.maximum(obstacle @ DIRECTIONS.T, 0.0)
    wanted = np.stack([np.cos(heading), np.sin(heading)], -1) * rng.uniform(0.0, 1.0, (*shape, 1))
    velocity = cart["gain"][..., None] * wanted - cart["push"][..., None] * nearness**2 @ DIRECTIONS
    cos, sin = np.cos(cart["mount"]), np.sin(cart["mount"])
    y = np.stack([cos * velocity[..., 0] - sin * velocity[..., 1], sin * velocity[..., 0] + cos * velocity[..., 1]], -1)
    return np.concatenate([nearness, wanted], -1).astype(np.float32), y.astype(np.float32)


if __name__ == "__main__":
    print(check_family(FourEyes()))
