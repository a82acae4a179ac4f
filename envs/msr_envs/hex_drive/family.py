"""HexDrive: predict how a vehicle with six thrusters moves within one control period.

Its thrust, drag and mass are unknown. The samples of the support set move forward and use two of the six thrusters.
They still say all about drag and thrust in the other directions and of the other thrusters: a turn by 60 degrees with
a shift of the commands (C6) is a symmetry of every task. Vehicles with another number of thrusters have C_n.
"""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from msr_envs.hex_drive.controller import Path, fly
from msr_envs.hex_drive.environment import HexDriveEnv
from msr_envs.hex_drive.simulator import PERIOD, THRUSTERS, HexTask, draw_task, simulator
from msr_envs.query_sets import require_even, sector_and_wide
from msr_envs.splits import require_split
from msr_envs.symmetry import DeclaredSymmetry, Pseudoscalar, Ring, SymmetryGroup, Vector, cyclic
from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, Adapt, Array, ClosedLoop, Field, Loss, Predict, Split, TaskBatch

__all__ = ["HexDrive", "HexDriveEnv", "HexTask", "WeakThruster"]

_SHOTS = 10  # support samples per task in closed loop
_SECTOR = np.radians(20.0)  # largest angle between the velocity of a sector sample and forward
_SPEED, _YAW_RATE = 1.0, 2.0  # m/s, rad/s: largest speed and yaw rate of a sample


class HexDrive(DeclaredSymmetry):
    """Vehicles with equal thrusters, six if nobody says another number. With n, C_n is a symmetry of each task.

    x `(3 + n,)` is the twist (velocity and yaw rate) in the body's frame and the commands. y `(3,)` is the change of
    the twist over one control period of 0.1 s, with each twist in the body's frame of its own time.

    Samples of the query set `sector` move within 20 degrees of forward and use the first two thrusters only. Samples of
    the query set `wide` move in any direction and use all. The support set consists of sector samples.

    A subclass that overrides `draw_task` changes the tasks everywhere.

    Args:
        thrusters: How many thrusters a vehicle has, 3 or more. Another number than 6 is part of the family's name.

    Raises:
        FamilyError: There are too few or too many thrusters.

    """

    name: str = "hex-drive"
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("sector", "wide")
    rate_hz: float = 1 / PERIOD

    def __init__(self, thrusters: int = THRUSTERS) -> None:
        if thrusters < 3:
            raise FamilyError(f"{self.name}: thrusters is {thrusters}, but a ring has 3 or more")
        self.thrusters: int = thrusters
        if thrusters != THRUSTERS:
            self.name = f"{self.name}-{thrusters}"
        self.symmetry: SymmetryGroup = cyclic(thrusters)
        more = max(1.0, thrusters / THRUSTERS)  # the whole thrust grows with the number, drag does not
        self.inputs: tuple[Field, ...] = (
            _field("velocity", 2, "m/s", _SPEED, kind="velocity", representation=Vector()),
            _field("yaw_rate", 1, "rad/s", _YAW_RATE, kind="velocity", representation=Pseudoscalar()),
            _field("commands", thrusters, "1", 1.0, kind="effort", representation=Ring()),
        )
        self.outputs: tuple[Field, ...] = (
            _field("velocity_change", 2, "m/s", 1.3 * more, representation=Vector()),
            _field("yaw_rate_change", 1, "rad/s", 9.5 * more, representation=Pseudoscalar()),
        )

    def draw_task(self, rng: np.random.Generator) -> HexTask:
        """Draw one vehicle from the family's ranges. Training, `evaluate` and the environment draw as this does."""
        return draw_task(rng)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw new tasks.

        The support set and the first half of the queries are sector samples. The second half are wide samples.

        Returns:
            x `(tasks, shots or queries, 3 + thrusters)` and y `(tasks, shots or queries, 3)`, float32.

        Raises:
            FamilyError: `queries` is odd.

        """
        require_even(self.name, queries)
        rng = _split_generator(self.name, rng, split)
        return sector_and_wide(
            lambda sector, wide: self._label(self.draw_task(rng), rng, sector, wide), tasks, shots, queries
        )

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
        return fly(task, predict, rng, self.thrusters)

    def true_model(self, task: HexTask) -> Predict:
        """Return the simulator's own model of `task`: x `(batch, 3 + thrusters)` to y `(batch, 3)`, float32."""
        return lambda x: simulator(self.thrusters).twist_change(task, x).astype(np.float32)

    def make_env(self, task: HexTask | None = None) -> gymnasium.Env:
        """Return the registered environment `msr/HexDrive-v0` with one vehicle. Without it, every reset draws one."""
        return gymnasium.make("msr/HexDrive-v0", task=task, thrusters=self.thrusters, draw=self.draw_task)

    def _label(self, task: HexTask, rng: np.random.Generator, sector: int, wide: int) -> tuple[Array, Array]:
        x = np.concatenate([self._sector_inputs(rng, sector), self._wide_inputs(rng, wide)]).astype(np.float32)
        return x, self.true_model(task)(x)

    def _sector_inputs(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        commands = np.zeros((count, self.thrusters))
        commands[:, :2] = rng.uniform(-1, 1, (count, 2))
        return np.concatenate([_twists(rng, count, _SECTOR), commands], -1)

    def _wide_inputs(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        return np.concatenate([_twists(rng, count, np.pi), rng.uniform(-1, 1, (count, self.thrusters))], -1)


class WeakThruster(HexDrive):
    """Vehicles with one weak thruster: it lost 20 to 60 % of its thrust. Each task has its own weak thruster.

    A turn now changes one task into another task, so C6 is not a symmetry of any task. This family is the
    negative control: training with augmentation must be refused.
    """

    name: str = "hex-weak-thruster"

    def draw_task(self, rng: np.random.Generator) -> HexTask:
        """Draw one vehicle from the family's ranges, with one weak thruster."""
        task = super().draw_task(rng)
        strengths = np.ones(self.thrusters)
        strengths[rng.integers(self.thrusters)] -= rng.uniform(0.2, 0.6)
        return task._replace(strengths=tuple(strengths.tolist()))


def _field(name: str, size: int, unit: str, bound: float, **more: Any) -> Field:
    return Field(name=name, shape=(size,), unit=unit, low=-bound, high=bound, **more)


def _split_generator(family: str, rng: np.random.Generator, split: Split) -> np.random.Generator:
    """Return a generator for the split, so that equal states of `rng` give different tasks in different splits.

    It draws once from `rng`, unlike `msr_envs.splits.split_generator`: published results name the tasks of this one.
    """
    require_split(family, split)
    return np.random.default_rng([SPLITS.index(split), int(rng.integers(2**63))])


def _twists(rng: np.random.Generator, count: int, half_angle: float) -> NDArray[np.float64]:
    speed, angle = rng.uniform(0, _SPEED, count), rng.uniform(-half_angle, half_angle, count)
    return np.stack([speed * np.cos(angle), speed * np.sin(angle), rng.uniform(-_YAW_RATE, _YAW_RATE, count)], -1)
