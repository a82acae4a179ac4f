"""arm: a network learns where the fingertip of a table-top arm comes to rest, after motors were replaced.

* Robot: an arm in the size of an SO-101, with five joints, a gripper and position servos. MuJoCo simulates it.
* Task: one arm, with its own joint offsets, motor gains, payload, friction, damping and backlash (see `ArmTask`). One
  to three of its motors were replaced: their joints are off by 0.1 to 0.25 rad. The robot does not know these numbers.
* x: 11 numbers. They are the command to which the arm goes, with the base as cosine and sine (2) and four joints (4,
  rad), and the move that takes it there (5, rad): with friction and backlash, the way decides where the arm stops.
* y: 3 numbers. A camera sees the fingertip there at the end of the move, relative to the base, in m.
* Group: SO(2), all turns about the axis of the base. An element turns the heading of the base and the fingertip. The
  other joints and the moves stay. This is an exact symmetry of every task: an offset of the base is one more turn. A
  left-right mirror is no symmetry, because offsets of the base and of the roll break it.
* Support set: 10 moves that end within 0.3 rad of straight ahead.
* Closed loop: in any direction from the base, the arm reaches 8 points and follows a circle of 16 points. The measure
  is the mean distance of the fingertip from its target, in m. `recovered_share` says which part of what the new motors
  took away an adaptation gives back.
"""

from msr_envs.arm.controller import Drive, recovered_share
from msr_envs.arm.environment import ArmEnv
from msr_envs.arm.family import Arm
from msr_envs.arm.task import NOMINAL, ArmTask

__all__ = [
    "NOMINAL",
    "Arm",
    "ArmEnv",
    "ArmTask",
    "Drive",
    "recovered_share",
]
