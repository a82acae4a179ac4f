"""One drive of a robot before and after adaptation, for a picture: MSR by Gauss-Newton steps, as in `families.py`.

The robot is one of the test tasks, the same in both drives. Its ten samples lie in the sector that a support set shows.
`--store drive-ROBOT` writes benchmarks/results/drive-ROBOT.json, from which `make pictures` draws. The training takes
about ten minutes of one core. Run again, it goes on where it was interrupted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from store import Output, begin, keep, settled
from tables import NEWTON
from training import ROOTS, Job, learner_config, train

from msr_envs.ant import Ant, AntEnv
from msr_envs.ant.controller import Trot, trot
from msr_envs.ant.simulator import LEGS
from msr_envs.arm import Arm
from msr_envs.arm.course import REACHES
from msr_envs.quadrotor import ModelLaw, Quadrotor
from msr_envs.quadrotor.flight import draw_weather
from msr_runtime.meta.evaluation.predictor import torch_adapt, torch_unadapted
from msr_runtime.meta.training.checkpoint import load_checkpoint
from msr_runtime.meta.training.config import TrainSettings
from msr_runtime.task import Adapt, Predict, TaskFamily

Robot = Literal["quadrotor", "arm", "ant"]
SHOTS = 10
ANTS = 9
"""Test tasks of which one is shown."""
BEFORE, AFTER = "no adaptation", "after ten samples"
_TASK, _WORLD = 11, 7
"""Seeds: of the task and its samples, and of the course or the weather."""


@dataclass(frozen=True)
class Options(Output):
    """What to drive."""

    robot: Robot = "quadrotor"
    """The robot."""
    steps: int = 1000
    """Outer steps of the training."""
    out: Path = Path("runs/drives")
    """Folder of the runs; a finished one in it is kept."""


STORED = {f"drive-{robot}": Options(robot=robot) for robot in get_args(Robot)}
"""The stored results, and what each of them measures."""


class Driven(NamedTuple):
    """What a picture shows."""

    axes: tuple[str, str]
    reference: NDArray[np.float64]
    """`(points, 2)`."""
    paths: dict[str, tuple[NDArray[np.float64], str]]
    """By `BEFORE` and `AFTER`: the path `(points, 2)`, and its error in words."""

    def data(self) -> dict[str, Any]:
        """Return it as plain numbers, in hundredths."""
        columns = {
            title: {"path": np.round(path, 2).tolist(), "error": error} for title, (path, error) in self.paths.items()
        }
        return {"axes": list(self.axes), "reference": np.round(self.reference, 2).tolist(), "columns": columns}


def main(options: Options) -> None:
    """Train, drive twice, and keep what the picture shows."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    begun = begin(options, (*ROOTS, "benchmarks/drives.py"), seeds=(0,))
    driven = ROBOTS[options.robot](*models(options))
    print(*(f"{options.robot}, {title}: {error}" for title, (_, error) in driven.paths.items()), sep="\n")
    rows = [{"robot": options.robot, "when": title, "error": error} for title, (_, error) in driven.paths.items()]
    keep(options, begun, rows, {f"drive-{options.robot}": driven.data()})


def models(options: Options) -> tuple[Adapt, Adapt]:
    """Train a network, and return what does not adapt, and what does."""
    method = "msr" + NEWTON
    settings = TrainSettings(steps=options.steps, outer_rate=8e-3, training_tasks=600)
    run = train(Job(options.out / options.robot, options.robot, method, learner_config(method), settings))
    checkpoint = load_checkpoint(run)
    return torch_unadapted(checkpoint.learner, checkpoint.normalization), torch_adapt(
        checkpoint.learner, checkpoint.normalization
    )


def fly(before: Adapt, after: Adapt) -> Driven:
    """The figure eight of a quadrotor in wind, seen from the side: what it weighs shows in its height."""
    family, rng = Quadrotor(), np.random.default_rng(_TASK)
    task = family.draw_task(rng)
    support = _support(family, rng, family.true_model(task))
    flights = {
        title: family.fly(task, ModelLaw(adapt(*support)), draw_weather(np.random.default_rng(_WORLD)))
        for title, adapt in ((BEFORE, before), (AFTER, after))
    }
    seen = np.s_[::4, 1:]  # every fourth point; y and height
    paths = {
        title: (100 * flight.positions[seen], f"path error {100 * flight.error:.1f} cm")
        for title, flight in flights.items()
    }
    return Driven(("y, cm", "height, cm"), 100 * flights[AFTER].reference[seen], paths)


def reach(before: Adapt, after: Adapt) -> Driven:
    """The circle that the fingertip of an arm follows, seen from above, around its middle."""
    family, rng = Arm(), np.random.default_rng(_TASK)
    task = family.draw_task(rng)
    support = _support(family, rng, family.true_model(task))
    drives = {
        title: family.drive(task, adapt(*support), np.random.default_rng(_WORLD))
        for title, adapt in ((BEFORE, before), (AFTER, after))
    }
    circle = drives[AFTER].targets[REACHES:, :2]
    middle = circle.mean(0)
    paths = {
        title: (100 * (drive.fingertips[REACHES:, :2] - middle), f"path error {1000 * drive.path_error:.1f} mm")
        for title, drive in drives.items()
    }
    closed = np.append(np.arange(len(circle)), 0)
    return Driven(("x, cm", "y, cm"), 100 * (circle - middle)[closed], paths)


def walk(before: Adapt, after: Adapt) -> Driven:
    """The trot of an ant: hip and ankle of the leg that swings most.

    Without adaptation some ants trot well and others do not. Shown is the one in the middle of `ANTS` test tasks.
    """
    family, env = Ant(tasks=(1, 1, ANTS), workers=1), AntEnv()
    x, y = family.gathered("test")
    chosen = np.random.default_rng(_TASK).permutation(x.shape[2])[:SHOTS]

    def trots(adapt: Adapt, task: int) -> Trot:
        env.set_task(family.task("test", task))
        return trot(env, adapt(x[task, 0, chosen], y[task, 0, chosen]), np.random.default_rng(_WORLD))

    middle = sorted(range(ANTS), key=lambda task: trots(before, task).error)[ANTS // 2]
    driven = {title: trots(adapt, middle) for title, adapt in ((BEFORE, before), (AFTER, after))}
    env.close()
    wanted = driven[AFTER].reference
    swings = int(np.ptp(wanted[:, :LEGS], 0).argmax())
    leg = [swings, LEGS + swings]
    paths = {
        title: (np.degrees(each.angles[:, leg]), f"joint error {np.degrees(each.error):.1f} degrees")
        for title, each in driven.items()
    }
    return Driven(("hip, degrees", "ankle, degrees"), np.degrees(wanted[:, leg]), paths)


def _support(family: TaskFamily, rng: np.random.Generator, model: Predict) -> tuple[NDArray, NDArray]:
    """Ten sector samples of a task: their inputs do not depend on it."""
    x = family.sample(rng, 1, SHOTS, 2, "test").support_x[0]
    return x, model(x)


ROBOTS: dict[Robot, Callable[[Adapt, Adapt], Driven]] = {"quadrotor": fly, "arm": reach, "ant": walk}

if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
