"""quadrotor: a network learns what the nominal model of a quadrotor does not know, for flights in wind.

* Robot: a round body with four rotors. MuJoCo simulates it, with a flight controller on board.
* Task: one vehicle, with its own payload, rotor efficiency, drag, lift and ground effect (see `QuadTask`). The robot
  does not know these numbers. Its nominal model knows a mass of 1 kg, the thrust that it asks for, and gravity.
* x: 7 numbers. They are the velocity relative to the air (3, m/s), the tilt (2, the horizontal part of the thrust's
  direction), the thrust asked for (1, m/s2, divided by the nominal mass) and the height (1, m).
* y: 3 numbers, the residual acceleration: what is measured, minus what the nominal model expects (3, m/s2).
* Frame: the heading's. Its z is up, and its x is where the vehicle looks when its tilt is undone.
* Group: every turn about the vertical axis and the left-right mirror, O(2), sampled by D8. They move the velocity, the
  tilt and the residual acceleration. Thrust and height stay. This is an exact symmetry of every task: the body is
  round, and two rotors turn each way.
* Wind: it is no number of the task. A wind from the north is no longer from the north after a turn, so a network that
  had to remember it could not be symmetric. But all forces depend on the velocity relative to the air. An anemometer on
  board measures it, and it is part of x. So the wind may blow from anywhere, and change.
* Support set: 10 samples, straight out and back: air flow and tilt are within 20 degrees of ahead or astern.
* Closed loop: the vehicle flies a figure eight of 10 s in gusty wind. The measure is the distance to the reference
  point, in m. `Quadrotor.evaluate_law` flies the same figures with a PID controller and with an adaptive law.
"""

from msr_envs.quadrotor.environment import QuadrotorEnv
from msr_envs.quadrotor.family import Quadrotor
from msr_envs.quadrotor.laws import AdaptiveLaw, ModelLaw, NoLaw, Pid
from msr_envs.quadrotor.vehicle import QuadTask

__all__ = [
    "AdaptiveLaw",
    "ModelLaw",
    "NoLaw",
    "Pid",
    "QuadTask",
    "Quadrotor",
    "QuadrotorEnv",
]
