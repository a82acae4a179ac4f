"""The flight controller on board: it turns a wanted direction and size of the thrust into the thrusts of four rotors.

It runs in every step of the simulation, knows the nominal vehicle only, and is the same for all tasks. Quaternions are
(w, x, y, z), from the body's frame to the world's.
"""

import math

import numpy as np
from numpy.typing import NDArray

from msr_envs.quadrotor.vehicle import MASS

ARM = 0.17
"""Distance from the middle to each rotor, m. The rotors stand at 45, 135, 225 and 315 degrees from ahead."""
YAW_PER_THRUST = 0.016
"""Torque about the rotor's axis for each N of thrust, m. Rotors 0 and 2 turn one way, 1 and 3 the other way."""
SPIN = np.array([1.0, -1.0, 1.0, -1.0])
"""The sign of each rotor's torque."""
AZIMUTHS = np.pi / 2 * np.arange(4) + np.pi / 4
"""Direction of each rotor from the middle, rad."""
INERTIA = np.array([0.008, 0.008, 0.014])
"""Moments of inertia about the body's axes, kg m2."""
ROTOR_LIMIT = 8.0
"""The largest thrust of a rotor with the efficiency 1, N."""

_TILT_RATE = 20.0  # rad/s, how fast an error of the tilt is corrected
_YAW_RATE = 4.0  # rad/s: yaw torque is weak, so that the heading is corrected more slowly
_DAMPING = 0.9
_MIX = np.stack(  # from the thrust and the torque about each axis to the rotors
    [np.full(4, 0.25), np.sin(AZIMUTHS) / (2 * ARM), -np.cos(AZIMUTHS) / (2 * ARM), SPIN / (4 * YAW_PER_THRUST)], -1
)


def attitude(axis: NDArray, heading: float) -> NDArray[np.float64]:
    """Return the quaternion `(4,)` with the thrust along `axis` `(3,)`: first a turn to `heading`, then the tilt.

    The tilt is the shortest turn from upright. So the heading is what is left when the tilt is undone.
    """
    w, x, y = math.sqrt((1.0 + axis[2]) / 2), -axis[1], axis[0]
    x, y = x / (2 * w), y / (2 * w)
    cos, sin = math.cos(heading / 2), math.sin(heading / 2)
    return np.array([w * cos, x * cos + y * sin, y * cos - x * sin, w * sin])


def heading_of(quaternion: NDArray) -> float:
    """Return the heading of a vehicle, rad."""
    return 2 * math.atan2(quaternion[3], quaternion[0])


def thrust_axis(quaternion: NDArray) -> NDArray[np.float64]:
    """Return the direction `(3,)` of the thrust in the world's frame."""
    w, x, y, z = quaternion
    return np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])


def rotor_thrusts(
    quaternion: NDArray, rates: NDArray, wanted: NDArray, thrust: float, heading: float
) -> NDArray[np.float64]:
    """Return the thrust that each rotor is asked for, `(4,)` in N.

    Args:
        quaternion: Present attitude `(4,)`.
        rates: Present turning rates `(3,)` about the body's axes, rad/s.
        wanted: Wanted direction `(3,)` of the thrust in the world's frame, of length 1.
        thrust: Wanted thrust, as an acceleration of the nominal mass, m/s2.
        heading: Wanted heading, rad.

    """
    w, x, y, z = quaternion
    goal_w, goal_x, goal_y, goal_z = attitude(wanted, heading)
    side = 2.0 if w * goal_w + x * goal_x + y * goal_y + z * goal_z >= 0 else -2.0  # the shorter way round
    error = (
        side * (w * goal_x - x * goal_w - y * goal_z + z * goal_y),
        side * (w * goal_y - y * goal_w - z * goal_x + x * goal_z),
        side * (w * goal_z - z * goal_w - x * goal_y + y * goal_x),
    )
    torque = [
        inertia * rate * (rate * wrong - 2 * _DAMPING * turning)
        for inertia, rate, wrong, turning in zip(
            INERTIA, (_TILT_RATE, _TILT_RATE, _YAW_RATE), error, rates, strict=True
        )
    ]
    return np.clip(_MIX @ np.array([MASS * thrust, *torque]), 0.0, ROTOR_LIMIT)
