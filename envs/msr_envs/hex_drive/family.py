"""HexDrive: predict how a vehicle with six thrusters moves within one control period.

Its thrust, drag and mass are unknown. The samples of the support set move forward and use two of the six thrusters.
They still say all about drag and thrust in the other directions and of the other thrusters: a turn by 60 degrees with
a shift of the commands (C6) is a symmetry of every task.
"""

import gymnasium
import numpy as np
from numpy.typing import NDArray

from msr_envs.groups import direct_sum, random_action, rotation, shift, trivial
from msr_envs.hex_drive.controller import Path, fly
from msr_envs.hex_drive.environment import HexDriveEnv
from msr_envs.hex_drive.simulator import PERIOD, THRUSTERS, HexTask, draw_task, simulator
from msr_envs.splits import require_split
from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, Adapt, Array, ClosedLoop, Field, Group, Loss, Predict, Split, TaskBatch

__all__ = ["HexDrive", "HexDriveEnv", "HexTask", "WeakThruster"]

_SHOTS = 10  # support samples per task in closed loop
_SECTOR = np.radians(20.0)  # largest angle between the velocity of a sector sample and forward
_SPEED, _YAW_RATE = 1.0, 2.0  # m/s, rad/s: largest speed and yaw rate of a sample
_TWIST = direct_sum(rotation(THRUSTERS), trivial(THRUSTERS, 1))
_GROUP = Group("C6", direct_sum(_TWIST, shift(THRUSTERS)), _TWIST)


class HexDrive:
    """Vehicles with six equal thrusters. The group C6 is a symmetry of each task.

    x `(9,)` is the twist (velocity and yaw rate) in the body's frame and the six commands. y `(3,)` is the change of
    the twist over one control period of 0.1 s, with each twist in the body's frame of its own time.

    Samples of the query set `sector` move within 20 degrees of forward and use the first two thrusters only. Samples of
    the query set `wide` move in any direction and use all six. The support set consists of sector samples.
    """

    name: str = "hex-drive"
    inputs: tuple[Field, ...] = (
        Field(name="velocity", shape=(2,), unit="m/s", low=-_SPEED, high=_SPEED, kind="velocity"),
        Field(name="yaw_rate", shape=(1,), unit="rad/s", low=-_YAW_RATE, high=_YAW_RATE, kind="velocity"),
        Field(name="commands", shape=(THRUSTERS,), unit="1", low=-1.0, high=1.0, kind="effort"),
    )
    outputs: tuple[Field, ...] = (
        Field(name="velocity_change", shape=(2,), unit="m/s", low=-1.3, high=1.3),
        Field(name="yaw_rate_change", shape=(1,), unit="rad/s", low=-9.5, high=9.5),
    )
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("sector", "wide")
    rate_hz: float = 1 / PERIOD

    def draw_task(self, rng: np.random.Generator) -> HexTask:
        """Draw one vehicle from the family's ranges."""
        return draw_task(rng)

    def group(self) -> Group:
        """Return C6: element i turns velocities by `i * 60` degrees and shifts the commands by i thrusters."""
        return _GROUP

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Move each sample, x `(..., 9)` and its y `(..., 3)` together, by a random group element of its own."""
        return random_action(_GROUP, rng, x, y)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw new tasks.

        The support set and the first half of the queries are sector samples. The second half are wide samples.

        Returns:
            x `(tasks, shots or queries, 9)` and y `(tasks, shots or queries, 3)`, float32.

        Raises:
            FamilyError: `queries` is odd.

        """
        if queries % 2:
            raise FamilyError(
                f"queries is {queries}, but it must be even: {self.name} divides the queries into two query sets of "
                "equal size (sector, wide); add one query or leave one out (--settings.queries)"
            )
        rng = _split_generator(self.name, rng, split)
        half = queries // 2
        rows = [self._label(self.draw_task(rng), rng, shots + half, half) for _ in range(tasks)]
        x, y = (np.stack(part) for part in zip(*rows, strict=True))
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def evaluate(self, adapt: Adapt | None, rng: np.random.Generator, tasks: int, split: Split) -> ClosedLoop:
        """Adapt to 10 sector samples per task, then fly one figure eight of 12 s per task.

        If `adapt` is None, the controller flies with the true model of the vehicle.

        Returns:
            The RMS distance to the reference point in m, one number per task.

        """
        rng = _split_generator(self.name, rng, split)
        errors = []
        for _ in range(tasks):
            task = self.draw_task(rng)
            support_x, support_y = self._label(task, rng, _SHOTS, 0)
            flight = np.random.default_rng(rng.integers(2**63))  # its own: the flight must not change later tasks
            predict = adapt(support_x, support_y) if adapt else self.true_model(task)
            errors.append(self.fly(task, predict, flight).error)
        return ClosedLoop("path error", "m", False, np.array(errors))

    def fly(self, task: HexTask, predict: Predict, rng: np.random.Generator) -> Path:
        """Fly one figure eight with the vehicle `task` in the simulator. The controller knows only `predict`."""
        return fly(task, predict, rng)

    def true_model(self, task: HexTask) -> Predict:
        """Return the simulator's own one-step model of `task`: x `(batch, 9)` to y `(batch, 3)`, float32."""
        return lambda x: simulator().twist_change(task, x).astype(np.float32)

    def make_env(self, task: HexTask) -> gymnasium.Env:
        """Return the registered environment `msr/HexDrive-v0` with the vehicle `task`."""
        return gymnasium.make("msr/HexDrive-v0", task=task)

    def _label(self, task: HexTask, rng: np.random.Generator, sector: int, wide: int) -> tuple[Array, Array]:
        x = np.concatenate([_sector_inputs(rng, sector), _wide_inputs(rng, wide)]).astype(np.float32)
        return x, simulator().twist_change(task, x).astype(np.float32)


class WeakThruster(HexDrive):
    """Vehicles with one weak thruster: it lost 20 to 60 % of its thrust. Each task has its own weak thruster.

    A turn of C6 now changes one task into another task, so C6 is not a symmetry of any task. This family is the
    negative control: training with augmentation must be refused.
    """

    name: str = "hex-weak-thruster"

    def draw_task(self, rng: np.random.Generator) -> HexTask:
        """Draw one vehicle from the family's ranges, with one weak thruster."""
        task = super().draw_task(rng)
        strengths = np.ones(THRUSTERS)
        strengths[rng.integers(THRUSTERS)] -= rng.uniform(0.2, 0.6)
        return task._replace(strengths=tuple(strengths.tolist()))


def _split_generator(family: str, rng: np.random.Generator, split: Split) -> np.random.Generator:
    """Return a generator for the split, so that equal states of `rng` give different tasks in different splits.

    It draws once from `rng`, unlike `msr_envs.splits.split_generator`: published results name the tasks of this one.
    """
    require_split(family, split)
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
