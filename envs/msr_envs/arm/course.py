"""The course of the closed loop: points to reach, then a circle to follow, anywhere around the base."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.arm.body import JOINTS, MIDDLE
from msr_envs.arm.simulator import simulator
from msr_envs.arm.task import NOMINAL

REACHES = 8
"""Points to reach in one course."""
PATH = 16
"""Points of the circle in one course."""

_SPREAD = 0.25  # rad: points are where a nominal arm's fingertip is, with joints so far from the middle at most
_RADIUS = 0.04  # m


class Course(NamedTuple):
    """One course."""

    start: NDArray[np.float64]
    """`(5,)`: the command that the arm holds at the start, rad."""
    targets: NDArray[np.float64]
    """`(moves, 3)`: where the fingertip should be after each move, relative to the base, m. First the points to reach,
    then the circle."""


def draw_course(rng: np.random.Generator) -> Course:
    """Draw a course. All of it lies in one direction from the base, and any direction is as likely."""
    start = MIDDLE.copy()
    start[0] = rng.uniform(-np.pi, np.pi)
    poses = start + rng.uniform(-_SPREAD, _SPREAD, (REACHES + 1, len(JOINTS)))
    # the circle lies level, around the last of the points
    points = simulator().fingertip(NOMINAL, poses, np.zeros_like(poses))
    angle = 2 * np.pi / PATH * np.arange(PATH)
    circle = _RADIUS * np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    return Course(start, np.concatenate([points[:-1], points[-1] + circle]))
