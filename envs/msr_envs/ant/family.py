"""Ant: predict how a four-legged robot moves within one control period. It is made with `EnvFamily`."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from msr_envs.ant.controller import trot, true_model
from msr_envs.ant.environment import AntTask, draw_task
from msr_envs.ant.simulator import LEGS, PERIOD, AntEnv
from msr_envs.simulated import Change, Phase, RandomActions, SymmetricEnvFamily
from msr_envs.splits import require_split
from msr_envs.symmetry import Pseudoscalar, Pseudovector, Ring, Scalar, Vector, cyclic
from msr_runtime.task import Adapt, ClosedLoop, Field, Split

_SECTOR = np.radians(20.0)  # largest angle between the first velocity of a sector sample and forward
_FRONT = (1.0, 0.0, 0.0, 1.0) * 2  # the front legs act: hips, then ankles
_EPISODE = 8  # steps
_SHOTS = 20  # support samples per task in closed loop
_LEGS = ("front_left", "back_left", "back_right", "front_right")


def _ring(name: str, unit: str, low: float, high: float, kind: Any, of: Any) -> Field:
    return Field(
        name=name,
        shape=(LEGS,),
        unit=unit,
        low=low,
        high=high,
        kind=kind,
        names=_LEGS,
        representation=Ring(first="half", of=of),
    )


def _vector(name: str, unit: str, bound: float, representation: Any) -> Field:
    return Field(name=name, shape=(3,), unit=unit, low=-bound, high=bound, representation=representation)


OBSERVATION = (
    Field(name="height", shape=(1,), unit="m", low=0.0, high=3.0, representation=Scalar()),
    _vector("up", "1", 1.0, Vector()),
    _vector("velocity", "m/s", 10.0, Vector()),
    _vector("angular_velocity", "rad/s", 30.0, Pseudovector()),
    _ring("hips", "rad", -1.5, 1.5, "position", Pseudoscalar()),
    _ring("ankles", "rad", -0.5, 2.3, "position", Scalar()),
    _ring("hip_rates", "rad/s", -40.0, 40.0, "velocity", Pseudoscalar()),
    _ring("ankle_rates", "rad/s", -40.0, 40.0, "velocity", Scalar()),
)
"""The fields of an observation: how each turns with the body."""
ACTION = (
    _ring("hip_commands", "1", -1.0, 1.0, "effort", Pseudoscalar()),
    _ring("ankle_commands", "1", -1.0, 1.0, "effort", Scalar()),
)
"""The fields of an action."""


class Ant(SymmetricEnvFamily):
    """Ants with unknown motors, mass, friction, damping and armature. C4 is a symmetry of each task.

    x `(34,)` is what the body measures and the commands of the joints. y `(14,)` is the change of the velocities over
    one control period of 0.05 s, in the body's frame of its own time.

    In the query set `sector`, and so in support sets, episodes start within 20 degrees of forward, and only the front
    legs act. In the query set `wide`, they start in any direction, and all legs act.

    A subclass that overrides `draw_task` changes the tasks everywhere.

    Args:
        tasks: How many tasks the splits train, validation and test have.
        examples: Samples of each task, in each query set.
        workers: Processes that simulate. None: one for each processor.
        cache: A folder in which the samples are kept.

    """

    def __init__(
        self,
        tasks: tuple[int, int, int] = (300, 64, 100),
        examples: int = 128,
        workers: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        super().__init__(
            AntEnv,
            self.draw_task,
            name="ant",
            through="reset",
            observation=OBSERVATION,
            action=ACTION,
            y=Change("velocity", "angular_velocity", "hip_rates", "ankle_rates"),
            phases={
                "sector": Phase(RandomActions(_FRONT), {"sector": _SECTOR}, _EPISODE),
                "wide": Phase(RandomActions(), steps=_EPISODE),
            },
            symmetry=cyclic(LEGS),
            tasks=tasks,
            examples=examples,
            workers=workers,
            cache=cache,
            rate_hz=1 / PERIOD,
        )

    @staticmethod
    def draw_task(rng: np.random.Generator) -> AntTask:
        """Draw the physics of one ant, each factor evenly in its range. Training and `evaluate` draw as this does."""
        return draw_task(rng)

    def make_env(self, task: AntTask | None = None, render_mode: str | None = None) -> gymnasium.Env:
        """Return the registered environment `msr/Ant-v0` with one ant. Without it, every reset draws one."""
        return gymnasium.make("msr/Ant-v0", task=task, render_mode=render_mode, draw=self.draw_task)

    def evaluate(self, adapt: Adapt | None, rng: np.random.Generator, tasks: int, split: Split) -> ClosedLoop:
        """Adapt to 20 sector samples per task, then trot for 2 s in a random direction of the body.

        If `adapt` is None, the controller uses the simulator itself as its model.

        Returns:
            The RMS error of the joints in rad, one number per task.

        """
        require_split(self.name, split)
        rounds = -(-tasks // self.tasks[split])  # rounded up: each round walks with every ant once
        chosen = np.concatenate([rng.permutation(self.tasks[split]) for _ in range(rounds)])[:tasks].tolist()
        x, y = self.gathered(split, chosen)
        errors, ant = [], AntEnv()
        try:
            for row, index in enumerate(chosen):
                walk = np.random.default_rng(rng.integers(2**63))  # its own: the walk must not change later tasks
                support = walk.permutation(x.shape[2])[:_SHOTS]
                ant.set_task(self.task(split, index))
                predict = adapt(x[row, 0, support], y[row, 0, support]) if adapt else true_model(ant)
                errors.append(trot(ant, predict, walk).error)
        finally:
            ant.close()
        return ClosedLoop("joint error", "rad", False, np.array(errors))
