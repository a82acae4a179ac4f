"""hex-drive: a network learns the dynamics of a vehicle with six thrusters that moves in a plane, under water.

* Robot: a round hull with six equal thrusters, set evenly around it at 0.25 m from the middle. MuJoCo simulates it.
* Task: one vehicle, with its own maximum thrust, thrust exponent, dead band of the commands, thruster angle, drag and
  mass (see `HexTask`). The robot does not know these numbers.
* x: 9 numbers in the body's frame. They are the velocity (2, m/s), the yaw rate (1, rad/s) and the commands of the
  thrusters (6, from -1 to 1).
* y: 3 numbers. They are the change of the velocity (2, m/s) and of the yaw rate (1, rad/s) over one control period of
  0.1 s. Each velocity is in the body's frame of its own time.
* Group: C6, the turns by multiples of 60 degrees. Element i turns the velocity and its change by `i * 60` degrees and
  shifts the commands by i thrusters. The yaw rate and its change stay. After such a turn, thrusters stand again where
  thrusters stood before. This is an exact symmetry of every task. `HexDrive(thrusters=8)` has C8.
* Support set: 10 samples that move within 20 degrees of forward and use only the first two thrusters.
* Closed loop: the vehicle flies a figure eight of 12 s. The measure is the distance to the reference point, in m.

`WeakThruster` is the counter-example: one thruster of each vehicle is weak, and C6 is not a symmetry of any task.
"""

from msr_envs.hex_drive.environment import HexDriveEnv
from msr_envs.hex_drive.family import HexDrive, WeakThruster

__all__ = [
    "HexDrive",
    "HexDriveEnv",
    "WeakThruster",
]
