"""What differs from arm to arm, and what the robot does not know."""

from typing import NamedTuple

import numpy as np

from msr_envs.arm.body import JOINTS


class ArmTask(NamedTuple):
    """One arm. Tuples hold one number for each of the five joints, in the order of `JOINTS`."""

    offsets: tuple[float, ...]
    """What each joint adds to its command, rad. A replaced motor: 0.1 to 0.25, of either sign. Others: up to 0.02."""
    stiffness: tuple[float, ...]
    """Gain of each motor: torque per angle by which its gear is off, N m / rad. 15 to 45."""
    payload: float
    """Mass in the gripper, kg. 0.01 to 0.25."""
    friction: float
    """Dry friction of each joint, N m. 0.02 to 0.12."""
    damping: float
    """Damping of each joint, N m s / rad. 1.5 to 3."""
    backlash: float
    """Full play of each gear, rad. 0 to 0.03."""


NOMINAL = ArmTask((0.0,) * 5, (30.0,) * 5, 0.01, 0.02, 2.0, 0.0)
"""An arm as it is described: without offsets and backlash, and with nearly no payload."""


def draw_task(rng: np.random.Generator) -> ArmTask:
    """Draw an arm of which one, two or three motors were replaced. Numbers are uniform in the ranges of `ArmTask`."""
    offsets = rng.uniform(-0.02, 0.02, len(JOINTS))
    replaced = rng.permutation(len(JOINTS))[: rng.integers(1, 4)]
    offsets[replaced] = rng.choice([-1.0, 1.0], len(replaced)) * rng.uniform(0.1, 0.25, len(replaced))
    return ArmTask(
        offsets=tuple(offsets.tolist()),
        stiffness=tuple(rng.uniform(15.0, 45.0, len(JOINTS)).tolist()),
        payload=rng.uniform(0.01, 0.25),
        friction=rng.uniform(0.02, 0.12),
        damping=rng.uniform(1.5, 3.0),
        backlash=rng.uniform(0.0, 0.03),
    )
