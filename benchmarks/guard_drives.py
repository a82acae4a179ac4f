"""Ring-nav drives in simulated time, by the loop of the README: with hiccups of the computer, and with real faults.

Simulated time makes 200 drives a matter of seconds, and the same hiccups hit the loop with a guard and without. The
weights stay as they were adapted, so that all loops drive the same network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from msr_envs.ring_nav import RingNav
from msr_envs.ring_nav.environment import (
    GOAL_RADIUS,
    RATE_HZ,
    STEPS,
    World,
    draw_world,
    goal_distance,
    has_collided,
    move,
    observe,
)
from msr_envs.ring_nav.operator import RingTask
from msr_runtime import ActionGuard, AdaptiveModel
from msr_runtime.control.action_guard import Fallback
from msr_runtime.task import Array

DRIVES = 5
"""Drives of one robot. Its guard is not rearmed between them, so that a latch stops all that follow."""
HICCUP = 0.01
"""Share of the control periods that are skipped, and again of those whose observation is late."""
LATE = 3
"""Control periods by which an observation is late. The README's loop accepts 2."""
FAULT_AT = 20
"""Control period in which a fault begins: 2 s after the start, the robot is at its speed."""
_OBSERVED = 60
"""Control periods after a fault. The robot stands by then, or the fault was not caught."""
_SHOTS = 10
_LOOPS: dict[str, Fallback | None] = {"no guard": None, "guard, hold, as in the README": "hold", "guard, zero": "zero"}


class DriveRow(TypedDict):
    """Drives without a real fault."""

    loop: str
    hiccups: bool
    drives: int
    reached: int
    """Drives that reached the goal."""
    robots: int
    latched: int
    """Robots whose guard latched."""
    clipped: int
    refused: dict[str, int]


class FaultRow(TypedDict):
    """Drives in which something breaks for good."""

    fault: str
    fallback: str
    robots: int
    caught: int
    """Robots whose guard latched."""
    seconds: float | None
    """The longest time from the fault to the latch; None if none latched."""
    distance: float
    """The longest way from the fault to standstill, in m."""
    after_latch: float | None
    """The longest way from the latch to standstill, in m."""


class Seen(NamedTuple):
    """One observation."""

    x: Array
    at: float
    """Its time, in s."""


Predict = Callable[[ArrayLike], Array]


@dataclass
class Robot:
    """One adapted robot with its guard, and the time of its simulation."""

    task: RingTask
    model: AdaptiveModel
    fallback: Fallback | None
    now: float = 0.0

    def __post_init__(self) -> None:
        fields, hz = self.model.manifest.outputs, RATE_HZ
        self.guard = (
            ActionGuard(fields, hz=hz, max_age=2 / hz, fallback=self.fallback, clock=lambda: self.now)
            if self.fallback
            else None
        )

    def act(self, seen: Seen, predict: Predict) -> Array:
        """The line of the README's loop."""
        return self.guard.act(predict, seen.x, seen.at) if self.guard else predict(seen.x)

    def drive(self, world: World, hiccups: NDArray | None) -> bool:
        """Drive once; whether the goal was reached.

        Args:
            world: Goal and obstacles.
            hiccups: `(250, 2)`: in which control periods the loop is skipped, and in which it observes late.
        """
        position, command, history = np.zeros(2), np.zeros(2), []
        for step in range(STEPS):
            self.now += 1 / RATE_HZ
            history.append(Seen(observe(self.task, world, position).astype(np.float32), self.now))
            skipped, late = (False, False) if hiccups is None else hiccups[step]
            if not skipped:  # else the motors go on with the last command
                command = self.act(history[max(0, step - LATE)] if late else history[-1], self.model.predict)
            position = move(self.task, position, command.astype(np.float64))
            if has_collided(world, position):
                return False
            if goal_distance(world, position) < GOAL_RADIUS:
                return True
        return False


def adapted_robots(model: AdaptiveModel, robots: int) -> list[tuple[RingTask, AdaptiveModel]]:
    """Fresh robots, each with a fork of the model that adapted to ten samples."""
    family, rng = RingNav(), np.random.default_rng(6)
    found = []
    for _ in range(robots):
        task, fork = family.draw_task(rng), model.fork()
        fork.adapt(*family.demonstrate(rng, task, _SHOTS))
        found.append((task, fork))
    return found


def drives(model: AdaptiveModel, robots: int) -> list[DriveRow]:
    """Drive every robot by every loop through the same worlds, with the same hiccups and without."""
    adapted = adapted_robots(model, robots)
    rng = np.random.default_rng(7)
    worlds = [[draw_world(rng) for _ in range(DRIVES)] for _ in adapted]
    hiccups = rng.random((robots, DRIVES, STEPS, 2)) < HICCUP
    rows = []
    for with_hiccups in (False, True):
        for loop, fallback in _LOOPS.items():
            reached, reports = 0, []
            for index, (task, fork) in enumerate(adapted):
                robot = Robot(task, fork, fallback)
                for number, world in enumerate(worlds[index]):
                    reached += robot.drive(world, hiccups[index, number] if with_hiccups else None)
                reports += [robot.guard.report()] if robot.guard else []
            refused: dict[str, int] = {}
            for report in reports:
                for name, count in report.refused.items():
                    refused[name] = refused.get(name, 0) + count
            rows.append(
                DriveRow(
                    loop=loop,
                    hiccups=with_hiccups,
                    drives=robots * DRIVES,
                    reached=reached,
                    robots=robots,
                    latched=sum(report.latched for report in reports),
                    clipped=sum(report.clipped for report in reports),
                    refused=refused,
                )
            )
    return rows


def _dead(seen: Seen, _before: Seen) -> Seen:
    return Seen(np.full_like(seen.x, np.nan), seen.at)


def _at_999(seen: Seen, _before: Seen) -> Seen:
    return Seen(np.full_like(seen.x, 999.0), seen.at)


def _frozen(_seen: Seen, before: Seen) -> Seen:
    return before


Broken = tuple[Callable[[Seen, Seen], Seen] | None, Callable[[Array], Array] | None]
"""What breaks: the observation (from the present one and the last good one), or the network's output."""
FAULTS: dict[str, Broken] = {
    "the network gives NaN": (None, lambda y: np.full_like(y, np.nan)),
    "the network gives 3 m/s of 1": (None, lambda y: np.full_like(y, 3.0)),
    "dead observation: NaN": (_dead, None),
    "sensor stuck at 999": (_at_999, None),
    "sensor stuck, with its time stamp": (_frozen, None),
}


def faults(model: AdaptiveModel, robots: int) -> list[FaultRow]:
    """Let every fault happen to every robot, under both fallbacks. Obstacles stop no robot here."""
    adapted, rng = adapted_robots(model, robots), np.random.default_rng(8)
    worlds = [draw_world(rng) for _ in adapted]
    rows = []
    for fault, broken in FAULTS.items():
        for fallback in ("zero", "hold"):
            ends = [_break(Robot(*one, fallback), world, broken) for one, world in zip(adapted, worlds, strict=True)]
            latched = [end for end in ends if end.latched is not None]
            rows.append(
                FaultRow(
                    fault=fault,
                    fallback=fallback,
                    robots=robots,
                    caught=len(latched),
                    seconds=max((end.latched for end in latched if end.latched is not None), default=None),
                    distance=max(end.distance for end in ends),
                    after_latch=max((end.after_latch for end in latched), default=None),
                )
            )
    return rows


class _End(NamedTuple):
    latched: float | None
    """Time from the fault to the latch, in s."""
    distance: float
    after_latch: float


def _break(robot: Robot, world: World, broken: Broken) -> _End:
    sensor, network = broken
    predict = robot.model.predict
    position, distance, after_latch, latched = np.zeros(2), 0.0, 0.0, None
    before = seen = Seen(observe(robot.task, world, position).astype(np.float32), robot.now)
    for step in range(FAULT_AT + _OBSERVED):
        robot.now += 1 / RATE_HZ
        seen = Seen(observe(robot.task, world, position).astype(np.float32), robot.now)
        faulty = step >= FAULT_AT
        if not faulty:
            before = seen
        elif sensor:
            seen = sensor(seen, before)
        wrong = network if faulty and network else None
        command = robot.act(seen, (lambda x, wrong=wrong: wrong(predict(x))) if wrong else predict)
        moved = move(robot.task, position, command.astype(np.float64))
        if faulty:
            distance += float(np.hypot(*(moved - position)))
            if latched is not None:
                after_latch += float(np.hypot(*(moved - position)))
            elif robot.guard and robot.guard.report().latched:
                latched = (step - FAULT_AT) / RATE_HZ
        position = moved
    return _End(latched, distance, after_latch)
