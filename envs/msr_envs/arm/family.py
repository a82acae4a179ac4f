"""Arm: predict where the fingertip of a table-top arm comes to rest, after motors were replaced.

Joint offsets, motor gains, payload, friction, damping and backlash are unknown. The samples of the support set are
taken in front of the base. They still say all about the other directions: every turn about the base's axis is a
symmetry of every task.
"""

import gymnasium
import numpy as np
from numpy.typing import NDArray

from msr_envs.arm.body import JOINTS, MIDDLE, MOVE, PERIOD, RANGE
from msr_envs.arm.controller import Drive, drive, model_inputs
from msr_envs.arm.course import draw_course
from msr_envs.arm.simulator import simulator
from msr_envs.arm.task import ArmTask, draw_task
from msr_envs.query_sets import require_even, sector_and_wide
from msr_envs.splits import split_generator
from msr_envs.symmetry import DeclaredSymmetry, Scalar, SymmetryGroup, Vector, yaw
from msr_runtime.task import Adapt, Array, ClosedLoop, Field, Loss, Predict, Split, TaskBatch

_SHOTS = 10  # support samples per task in closed loop
_SECTOR = 0.3  # rad: largest angle of the base from straight ahead in a sector sample
_REACH = 0.55  # m, from the middle of the base


class Arm(DeclaredSymmetry):
    """Arms with replaced motors. Every turn about the vertical axis, SO(2), is a symmetry of each task.

    x `(11,)` is the command to which the arm goes, and the move that takes it there. y `(3,)` is where a camera sees
    the fingertip at the end of the move, relative to the base.

    In samples of the query set `sector`, the base is commanded within 0.3 rad of straight ahead. In samples of the
    query set `wide`, it points in any direction. The support set consists of sector samples.

    A subclass that overrides `draw_task` changes the tasks everywhere.
    """

    name: str = "arm"
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("sector", "wide")
    rate_hz: float = 1 / PERIOD
    symmetry: SymmetryGroup = yaw(8)
    inputs: tuple[Field, ...] = (
        Field(name="base", shape=(2,), unit="1", low=-1, high=1, names=("cos", "sin"), representation=Vector()),
        Field(
            name="joints",
            shape=(4,),
            unit="rad",
            low=float(min(MIDDLE[1:]) - RANGE),
            high=float(max(MIDDLE[1:]) + RANGE),
            kind="position",
            names=JOINTS[1:],
            representation=Scalar(),
        ),
        Field(name="move", shape=(5,), unit="rad", low=-MOVE, high=MOVE, names=JOINTS, representation=Scalar()),
    )
    outputs: tuple[Field, ...] = (
        Field(
            name="fingertip",
            shape=(3,),
            unit="m",
            low=-_REACH,
            high=_REACH,
            kind="position",
            names=("x", "y", "z"),
            representation=Vector(),
        ),
    )

    def draw_task(self, rng: np.random.Generator) -> ArmTask:
        """Draw one arm from the family's ranges. Training, `evaluate` and the environment draw as this does."""
        return draw_task(rng)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw new tasks. Every sample is a move of its own.

        The support set and the first half of the queries are sector samples. The second half are wide samples.

        Returns:
            x `(tasks, shots or queries, 11)` and y `(tasks, shots or queries, 3)`, float32.

        Raises:
            FamilyError: `queries` is odd, or `split` is unknown.

        """
        require_even(self.name, queries)
        rng = split_generator(self.name, rng, split)
        return sector_and_wide(
            lambda sector, wide: self._label(self.draw_task(rng), rng, sector, wide), tasks, shots, queries
        )

    def evaluate(self, adapt: Adapt | None, rng: np.random.Generator, tasks: int, split: Split) -> ClosedLoop:
        """Adapt to 10 sector samples per task, then reach 8 points and follow a circle of 16 points per task.

        If `adapt` is None, the controller inverts the simulator's own model of the arm.

        Returns:
            The mean distance of the fingertip from its target in m, one number per task.

        """
        rng = split_generator(self.name, rng, split)
        errors = []
        for _ in range(tasks):
            task = self.draw_task(rng)
            support_x, support_y = self._label(task, rng, _SHOTS, 0)
            course = draw_course(rng)
            predict = adapt(support_x, support_y) if adapt else self.true_model(task)
            errors.append(drive(task, predict, course).errors.mean())
        return ClosedLoop("fingertip error", "m", False, np.array(errors))

    def drive(self, task: ArmTask, predict: Predict, rng: np.random.Generator) -> Drive:
        """Drive one random course with the arm `task` in the simulator. The controller knows only `predict`."""
        return drive(task, predict, draw_course(rng))

    def true_model(self, task: ArmTask) -> Predict:
        """Return the simulator's own model of `task`: x `(batch, 11)` to y `(batch, 3)`, float32."""

        def predict(x: Array) -> Array:
            values = np.asarray(x, np.float64)
            base = np.arctan2(values[:, 1:2], values[:, :1])
            commands = np.concatenate([base, values[:, 2:6]], -1)
            return simulator().fingertip(task, commands, values[:, 6:]).astype(np.float32)

        return predict

    def make_env(self, task: ArmTask | None = None, render_mode: str | None = None) -> gymnasium.Env:
        """Return the registered environment `msr/Arm-v0` with one arm. Without it, every reset draws one."""
        return gymnasium.make("msr/Arm-v0", task=task, render_mode=render_mode, draw=self.draw_task)

    def _label(self, task: ArmTask, rng: np.random.Generator, sector: int, wide: int) -> tuple[Array, Array]:
        x = np.concatenate([_inputs(rng, sector, _SECTOR), _inputs(rng, wide, np.pi)])
        return x, self.true_model(task)(x)


def _inputs(rng: np.random.Generator, count: int, half_angle: float) -> NDArray[np.float32]:
    commands = MIDDLE + rng.uniform(-RANGE, RANGE, (count, len(JOINTS)))
    commands[:, 0] = rng.uniform(-half_angle, half_angle, count)
    return model_inputs(commands, rng.uniform(-MOVE, MOVE, commands.shape))
