"""ant: a network learns the dynamics of a robot on four legs, which push against the ground.

* Robot: Gymnasium's Ant-v5, a ball on four equal legs with a hip and an ankle each. MuJoCo simulates it, with elliptic
  friction cones, so that friction is the same in every direction.
* Task: one ant, with its own torque of the motors, mass of the torso, friction of the ground, and damping and armature
  of the joints (see `msr_envs.ant.simulator.RANGES`). The robot does not know these numbers.
* x: 34 numbers in the body's frame. They are the height (1, m), the direction up (3), velocity (3, m/s) and angular
  velocity (3, rad/s), angles and rates of hips and ankles (16, rad and rad/s), and their commands (8, from -1 to 1).
* y: 14 numbers. They are the change of velocity, angular velocity and rates over one control period of 0.05 s.
* Group: C4, the turns by multiples of 90 degrees. Element i moves each leg to the place of the i-th next one, and turns
  the vectors by `i * 90` degrees. This is an exact symmetry of every task.
* Support set: 20 samples of episodes that start within 20 degrees of forward, and in which only the front legs act.
* Closed loop: the ant trots for 2 s in a random direction. The measure is the error of its joints, in rad.

The family is made with `msr_envs.simulated.EnvFamily`.
"""

from msr_envs.ant.environment import AntTrotEnv
from msr_envs.ant.family import Ant
from msr_envs.ant.simulator import AntEnv

__all__ = ["Ant", "AntEnv", "AntTrotEnv"]
