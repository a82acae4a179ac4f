"""HexDrive: the one-step dynamics of a planar vehicle with six thrusters whose thrust, drag and mass are unknown.

The support moves forward and fires two thrusters. What it teaches about drag and thrust holds in all six directions and
for all six thrusters, because a turn by 60 degrees with a shift of the commands (C6) is a symmetry of every task.
"""

import gymnasium
import numpy as np
from numpy.typing import NDArray

from msr_envs.groups import direct_sum, random_action, rotation, shift, trivial
from msr_envs.hex_drive_control import Path, fly
from msr_envs.hex_drive_env import HexDriveEnv
from msr_envs.hex_drive_simulator import PERIOD, THRUSTERS, HexTask, draw_task, simulator
from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, Adapt, Array, ClosedLoop, Field, Group, Loss, Predict, Split, TaskBatch

__all__ = ["HexDrive", "HexDriveEnv", "HexTask", "WeakThruster"]

_SHOTS = 10
_SECTOR = np.radians(20.0)
_SPEED, _YAW_RATE = 1.0, 2.0  # m/s, rad/s: the largest that samples start from
_TWIST = direct_sum(rotation(THRUSTERS), trivial(THRUSTERS, 1))
_GROUP = Group("C6", direct_sum(_TWIST, shift(THRUSTERS)), _TWIST)


class HexDrive:
    """Vehicles whose six thrusters are alike: the group C6 is a symmetry of each task.

    x = the twist in the body's frame and the six commands; y = the twist's change over one control period of 0.1 s,
    each twist in the body's frame of its own time. Sector samples move within 20 degrees of forward and fire the first
    two thrusters only; wide samples move in any direction and fire all six.
    """

    name: str = "hex-drive"
    inputs: tuple[Field, ...] = (
        Field(name="velocity", shape=(2,), unit="m/s", low=-_SPEED, high=_SPEED),
        Field(name="yaw_rate", shape=(1,), unit="rad/s", low=-_YAW_RATE, high=_YAW_RATE),
        Field(name="commands", shape=(THRUSTERS,), unit="1", low=-1.0, high=1.0),
    )
    outputs: tuple[Field, ...] = (
        Field(name="velocity_change", shape=(2,), unit="m/s", low=-1.3, high=1.3),
        Field(name="yaw_rate_change", shape=(1,), unit="rad/s", low=-9.5, high=9.5),
    )
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("sector", "wide")
    rate_hz: float = 1 / PERIOD

    def draw_task(self, rng: np.random.Generator) -> HexTask:
        """One vehicle from the family's ranges."""
        return draw_task(rng)

    def group(self) -> Group:
        """C6: the velocity turns by 60 degrees, the commands shift by one thruster, the yaw rate stays."""
        return _GROUP

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Apply one random group element an example to x `(..., 9)` and y `(..., 3)` together."""
        return random_action(_GROUP, rng, x, y)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Fresh tasks with x `(tasks, shots or queries, 9)` and y `(tasks, shots or queries, 3)`.

        The support and the first half of the queries are sector samples, the second half are wide ones.

        Raises:
            FamilyError: if `queries` is odd.
        """
        if queries % 2:
            raise FamilyError(
                f"queries is {queries}, but {self.name} cuts them in two equal sets (sector, wide): it must be even"
            )
        rng = _split_generator(rng, split)
        half = queries // 2
        rows = [self._label(self.draw_task(rng), rng, shots + half, half) for _ in range(tasks)]
        x, y = (np.stack(part) for part in zip(*rows, strict=True))
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def evaluate(self, adapt: Adapt | None, rng: np.random.Generator, tasks: int, split: Split) -> ClosedLoop:
        """Adapt once to 10 sector samples a task, then fly a figure eight of 12 s; None flies with the true model.

        The figure is the RMS distance to the reference point, in m, one figure a task.
        """
        rng = _split_generator(rng, split)
        errors = []
        for _ in range(tasks):
            task = self.draw_task(rng)
            support_x, support_y = self._label(task, rng, _SHOTS, 0)
            flight = np.random.default_rng(rng.integers(2**63))
            predict = adapt(support_x, support_y) if adapt else self.true_model(task)
            errors.append(self.fly(task, predict, flight).error)
        return ClosedLoop("path error", "m", False, np.array(errors))

    def fly(self, task: HexTask, predict: Predict, rng: np.random.Generator) -> Path:
        """One figure eight of `task` in the simulator, steered by `predict` alone."""
        return fly(task, predict, rng)

    def true_model(self, task: HexTask) -> Predict:
        """The simulator's own one-step model of `task`: x `(batch, 9)` to y `(batch, 3)`."""
        return lambda x: simulator().twist_change(task, x).astype(np.float32)

    def make_env(self, task: HexTask) -> gymnasium.Env:
        """The registered environment `msr/HexDrive-v0` set to `task`."""
        return gymnasium.make("msr/HexDrive-v0", task=task)

    def _label(self, task: HexTask, rng: np.random.Generator, sector: int, wide: int) -> tuple[Array, Array]:
        x = np.concatenate([_sector_inputs(rng, sector), _wide_inputs(rng, wide)]).astype(np.float32)
        return x, simulator().twist_change(task, x).astype(np.float32)


class WeakThruster(HexDrive):
    """Vehicles with one thruster, drawn with the task, that lost 20 to 60 % of its thrust.

    C6 then carries a task onto another one and is a symmetry of none: the negative control for augmentation.
    """

    name: str = "hex-weak-thruster"

    def draw_task(self, rng: np.random.Generator) -> HexTask:
        """One vehicle from the family's ranges with one weak thruster."""
        task = super().draw_task(rng)
        strengths = np.ones(THRUSTERS)
        strengths[rng.integers(THRUSTERS)] -= rng.uniform(0.2, 0.6)
        return task._replace(strengths=tuple(strengths.tolist()))


def _split_generator(rng: np.random.Generator, split: Split) -> np.random.Generator:
    # The split is part of the seed, so that equal generators give different tasks in different splits.
    return np.random.default_rng([SPLITS.index(split), int(rng.integers(2**63))])


def _twists(rng: np.random.Generator, count: int, half_angle: float) -> NDArray[np.float64]:
    speed, angle = rng.uniform(0, _SPEED, count), rng.uniform(-half_angle, half_angle, count)
    return np.stack([speed * np.cos(angle), speed * np.sin(angle), rng.uniform(-_YAW_RATE, _YAW_RATE, count)], -1)


def _sector_inputs(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    commands = np.zeros((count, THRUSTERS))
    commands[:, :2] = rng.uniform(-1, 1, (count, 2))
    return np.concatenate([_twists(rng, count, _SECTOR), commands], -1)


def _wide_inputs(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return np.concatenate([_twists(rng, count, np.pi), rng.uniform(-1, 1, (count, THRUSTERS))], -1)
