"""Quadrotor: predict the acceleration that the nominal model does not expect, and fly with it in wind.

The samples of the support set are flown straight out and back. They still say all about air flow from the sides: turns
about the vertical axis and the mirror are symmetries of every vehicle.
"""

from collections.abc import Callable

import gymnasium
import numpy as np
from numpy.typing import NDArray

from msr_envs.quadrotor.flight import Flight, Weather, draw_weather, fly
from msr_envs.quadrotor.laws import Law, ModelLaw
from msr_envs.quadrotor.simulator import PERIOD, simulator
from msr_envs.quadrotor.vehicle import QuadTask, draw_task
from msr_envs.query_sets import require_even, sector_and_wide
from msr_envs.splits import split_generator
from msr_envs.symmetry import DeclaredSymmetry, Scalar, SymmetryGroup, Vector, yaw
from msr_runtime.task import Adapt, Array, ClosedLoop, Field, Loss, Predict, Split, TaskBatch

_SHOTS = 10  # support samples per task in closed loop
_SECTOR = np.radians(20.0)  # largest angle of a sector sample's air flow and tilt from ahead or astern
_SPEED, _CLIMB = 10.0, 2.5  # m/s: largest horizontal and vertical speed of a sample relative to the air
_TILT = 0.7  # largest horizontal part of the thrust's direction: 44 degrees
_THRUST, _HEIGHT = (5.0, 20.0), (0.25, 1.5)  # m/s2, m


class Quadrotor(DeclaredSymmetry):
    """Quadrotors with an unknown payload, efficiency, drag, lift and ground effect.

    x `(7,)` is the velocity relative to the air, the tilt, the thrust and the height. y `(3,)` is the measured minus
    the nominal acceleration. Vectors are in the heading frame. There is no measurement noise.

    Samples of the query set `sector` are flown straight out and back. Samples of the query set `wide` are flown in any
    direction, and tilted in any other one. The support set consists of sector samples.

    A subclass that overrides `draw_task` changes the tasks everywhere.
    """

    name: str = "quadrotor"
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("sector", "wide")
    rate_hz: float = 1 / PERIOD
    symmetry: SymmetryGroup = yaw(8, mirrored=True)
    inputs: tuple[Field, ...] = (
        Field(
            name="air_velocity",
            shape=(3,),
            unit="m/s",
            low=-_SPEED,
            high=_SPEED,
            kind="velocity",
            representation=Vector(),
        ),
        Field(name="tilt", shape=(2,), unit="1", low=-_TILT, high=_TILT, representation=Vector()),
        Field(
            name="thrust",
            shape=(1,),
            unit="m/s2",
            low=_THRUST[0],
            high=_THRUST[1],
            kind="effort",
            representation=Scalar(),
        ),
        Field(name="height", shape=(1,), unit="m", low=_HEIGHT[0], high=_HEIGHT[1], representation=Scalar()),
    )
    outputs: tuple[Field, ...] = (
        Field(name="residual_acceleration", shape=(3,), unit="m/s2", low=-14.0, high=14.0, representation=Vector()),
    )

    def draw_task(self, rng: np.random.Generator) -> QuadTask:
        """Draw one vehicle from the family's ranges. Training, `evaluate` and the environment draw as this does."""
        return draw_task(rng)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw new tasks.

        The support set and the first half of the queries are sector samples. The second half are wide samples.

        Returns:
            x `(tasks, shots or queries, 7)` and y `(tasks, shots or queries, 3)`, float32.

        Raises:
            FamilyError: `queries` is odd.

        """
        require_even(self.name, queries)
        rng = split_generator(self.name, rng, split)
        return sector_and_wide(
            lambda sector, wide: self._label(self.draw_task(rng), rng, sector, wide), tasks, shots, queries
        )

    def evaluate(self, adapt: Adapt | None, rng: np.random.Generator, tasks: int, split: Split) -> ClosedLoop:
        """Adapt to 10 sector samples per task, then fly one figure eight of 10 s per task in wind.

        If `adapt` is None, the controller flies with the true model of the vehicle.

        Returns:
            The RMS distance to the reference point in m, one number per task.

        """

        def law(task: QuadTask, x: Array, y: Array) -> Law:
            return ModelLaw(adapt(x, y) if adapt else self.true_model(task))

        return self._flown(law, rng, tasks, split)

    def evaluate_law(self, law: Callable[[], Law], rng: np.random.Generator, tasks: int, split: Split) -> ClosedLoop:
        """Fly with a law that learns nothing from samples, such as `Pid`, `AdaptiveLaw` or `NoLaw`.

        Equal states of `rng` give the same vehicles and winds as `evaluate`.

        Args:
            law: Called for each task: a law may keep a state.
            rng: The source of all randomness.
            tasks: The number of tasks.
            split: The part of the tasks to draw from.

        Returns:
            The RMS distance to the reference point in m, one number per task.

        """
        return self._flown(lambda _task, _x, _y: law(), rng, tasks, split)

    def fly(self, task: QuadTask, law: Law, weather: Weather) -> Flight:
        """Fly one figure eight with the vehicle `task` in the simulator. The controller knows only `law`."""
        return fly(task, law, weather)

    def true_model(self, task: QuadTask) -> Predict:
        """Return the simulator's own residual acceleration of `task`: x `(batch, 7)` to y `(batch, 3)`, float32."""
        return lambda x: simulator().residual(task, x).astype(np.float32)

    def make_env(self, task: QuadTask | None = None) -> gymnasium.Env:
        """Return the registered environment `msr/Quadrotor-v0` with one vehicle. Without it, every reset draws one."""
        return gymnasium.make("msr/Quadrotor-v0", task=task, draw=self.draw_task)

    def _flown(
        self, law: Callable[[QuadTask, Array, Array], Law], rng: np.random.Generator, tasks: int, split: Split
    ) -> ClosedLoop:
        rng = split_generator(self.name, rng, split)
        errors = []
        for _ in range(tasks):
            task = self.draw_task(rng)
            x, y = self._label(task, rng, _SHOTS, 0)
            errors.append(self.fly(task, law(task, x, y), draw_weather(rng)).error)
        return ClosedLoop("path error", "m", False, np.array(errors))

    def _label(self, task: QuadTask, rng: np.random.Generator, sector: int, wide: int) -> tuple[Array, Array]:
        x = np.concatenate([_out_and_back(rng, sector), _anywhere(rng, wide)]).astype(np.float32)
        return x, self.true_model(task)(x)


def _out_and_back(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    angles = rng.uniform(-_SECTOR, _SECTOR, (2, count)) + np.pi * rng.integers(2, size=(2, count))
    return _inputs(rng, *angles)


def _anywhere(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return _inputs(rng, *rng.uniform(-np.pi, np.pi, (2, count)))


def _inputs(rng: np.random.Generator, flow: NDArray, tilted: NDArray) -> NDArray[np.float64]:
    """Return x `(count, 7)` with the directions `(count,)` of the air velocity and of the tilt, rad."""
    count = len(flow)
    speed, tilt = rng.uniform(0, _SPEED, count), rng.uniform(0, _TILT, count)
    columns = [
        speed * np.cos(flow),
        speed * np.sin(flow),
        rng.uniform(-_CLIMB, _CLIMB, count),
        tilt * np.cos(tilted),
        tilt * np.sin(tilted),
        rng.uniform(*_THRUST, count),
        rng.uniform(*_HEIGHT, count),
    ]
    return np.stack(columns, -1)
