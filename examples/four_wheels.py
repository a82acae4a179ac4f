"""A family of your own, whole: a base on four omni wheels learns how its own wheels move it.

The support set drives forward on two wheels. Quarter turns carry over what it says to the other wheels and directions.

Try it: python examples/four_wheels.py, then msr train examples/four_wheels.py:FourWheels runs/wheels
"""

import numpy as np
from numpy.typing import NDArray

from msr_envs import check_family
from msr_envs.splits import split_generator
from msr_envs.symmetry import DeclaredSymmetry, Pseudoscalar, Ring, Vector, cyclic
from msr_runtime.task import Field, Loss, Split, TaskBatch

PERIOD, STEPS, ARM = 0.1, 5, 0.2  # s, steps of the simulator in it, m from the middle to each wheel
TOP = np.array([1.0, 1.0, 3.0])  # m/s, m/s, rad/s: the fastest that a sample drives and turns
RANGES = {
    "top": (1.0, 2.0),  # m/s of a free wheel's rim at full command
    "slip": (0.1, 0.6),  # m/s of slip at which the grip begins to saturate
    "grip": (2.0, 6.0),  # N, the most that a wheel pulls
    "cant": (-0.4, 0.4),  # rad, how far the wheels are mounted askew
    "drag": (0.5, 4.0),  # N s/m
    "mass": (3.0, 8.0),  # kg; a disk of this mass and of radius ARM says the inertia
}


class FourWheels(DeclaredSymmetry):
    """From velocity, yaw rate and four commands to their change in one period, in the body's frame."""

    name = "four-wheels"
    symmetry = cyclic(4)
    inputs = (
        Field(name="velocity", shape=(2,), unit="m/s", low=-1, high=1, kind="velocity", representation=Vector()),
        Field(name="yaw_rate", shape=(1,), unit="rad/s", low=-3, high=3, representation=Pseudoscalar()),
        Field(name="commands", shape=(4,), unit="1", low=-1, high=1, representation=Ring()),
    )
    outputs = (
        Field(name="velocity_change", shape=(2,), unit="m/s", low=-0.8, high=0.8, representation=Vector()),
        Field(name="yaw_rate_change", shape=(1,), unit="rad/s", low=-8, high=8, representation=Pseudoscalar()),
    )
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("sector", "wide")
    rate_hz: float = 1 / PERIOD
    ranges: dict[str, tuple[float, float]] = RANGES

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw bases. The support set and the first half of the queries drive forward, on two wheels."""
        rng = split_generator(self.name, rng, split)
        base = {name: rng.uniform(*ends, (tasks, 1)) for name, ends in self.ranges.items()}
        near, wide = shots + queries // 2, queries - queries // 2
        x = np.concatenate([_inputs(rng, tasks, near, 0.3, 2), _inputs(rng, tasks, wide, np.pi, 4)], 1)
        x, y = x.astype(np.float32), twist_change(base, x).astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])


def twist_change(base: dict[str, NDArray], x: NDArray) -> NDArray[np.float64]:
    """Drive for one period: x `(tasks, samples, 7)` to the change of the twist `(tasks, samples, 3)`."""
    twist, commands = x[..., :3].astype(np.float64), x[..., 3:]
    angle = np.pi / 2 * np.arange(4) + base["cant"][..., None]
    # The way that each wheel pulls: along x, along y, and about the middle (m).
    pull = np.stack(
        [-np.sin(angle), np.cos(angle), np.broadcast_to(ARM * np.cos(base["cant"])[..., None], angle.shape)]
    )
    rim, slip = base["top"][..., None] * commands, base["slip"][..., None]
    weight = base["mass"][..., None] * [1, 1, ARM**2 / 2]
    for _ in range(STEPS):
        rolling = np.einsum("ctsw,tsc->tsw", pull, twist)
        force = base["grip"][..., None] * np.tanh((rim - rolling) / slip)
        wrench = np.einsum("ctsw,tsw->tsc", pull, force)
        drag = base["drag"][..., None] * twist * [1, 1, ARM**2]
        turning = np.stack([twist[..., 2] * twist[..., 1], -twist[..., 2] * twist[..., 0], 0 * twist[..., 2]], -1)
        twist = twist + PERIOD / STEPS * ((wrench - drag) / weight + turning)  # the frame turns with the body
    return twist - x[..., :3]


def _inputs(rng: np.random.Generator, tasks: int, samples: int, spread: float, wheels: int) -> NDArray[np.float64]:
    """Twists whose velocity is within an angle of forward, and commands of the first wheels."""
    heading, speed = rng.uniform(-spread, spread, (tasks, samples)), rng.uniform(0, TOP[0], (tasks, samples))
    commands = np.zeros((tasks, samples, 4))
    commands[..., :wheels] = rng.uniform(-1, 1, (tasks, samples, wheels))
    yaw_rate = rng.uniform(-TOP[2], TOP[2], (tasks, samples))
    return np.concatenate([np.stack([speed * np.cos(heading), speed * np.sin(heading), yaw_rate], -1), commands], -1)


if __name__ == "__main__":
    print(check_family(FourWheels()))
