"""ring-nav: a network learns to drive a robot to a goal, between obstacles, as its operator does.

* Robot: it is round, with a radius of 0.2 m, drives in every direction without turning, and has 16 range beams, set
  evenly around it. The beams see round obstacles up to 2 m away.
* Task: one operator with a driving style, one angle at which the drive is mounted under the body, and one response of
  the range sensors (see `msr_envs.ring_nav.operator.RingTask`). The robot does not know these numbers.
* x: 18 numbers. They are the proximity that each beam reads (16, from 0 for nothing within 2 m to 1 for a distance of
  zero) and the vector to the goal in the body's frame (2, m), shortened to at most 1 m.
* y: 2 numbers. They are the operator's velocity command in the frame of the drive (2, m/s), at most 1 m/s.
* Group: C16, the turns of the world by multiples of 22.5 degrees. Element i shifts the 16 proximities by i beams, and
  turns the vector to the goal and the command by `i * 22.5` degrees. This is an exact symmetry of every task.
  `RingNav(beams=24)` has C24.
* Support set: 10 samples with the obstacles within 57 degrees (1 rad) and the goal within 23 degrees (0.4 rad) of
  straight ahead.
* Closed loop: the robot drives to goals 4 m away in all directions. The measure is the share of goals reached.
"""

from msr_envs.ring_nav.environment import RingNavEnv
from msr_envs.ring_nav.family import RingNav

__all__ = [
    "RingNav",
    "RingNavEnv",
]
