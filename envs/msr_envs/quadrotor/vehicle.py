"""The vehicles of quadrotor: what differs between them, and the forces of their rotors in moving air."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

GRAVITY = 9.81
"""m/s2."""
MASS = 1.0
"""The mass that the nominal model assumes, kg."""
LARGEST_THRUST = 22.0
"""The largest thrust that a controller asks for, as an acceleration of the nominal mass, m/s2."""
_REACH = 0.4  # radius of the disc that the ground effect of all four rotors together is like, m
_LOWEST = 0.2  # m: the landing gear keeps the rotors this far from the ground, where the formula would have a pole


class QuadTask(NamedTuple):
    """One vehicle. Its four rotors are alike and its body is round: no horizontal direction is special."""

    payload: float
    """Mass beyond the nominal mass of 1 kg, kg. 0 to 0.3."""
    efficiency: float
    """Factor on the thrust of each rotor: a weak battery, worn propellers. 0.8 to 1.05."""
    drag: float
    """Factor on the body's drag coefficients. The drag grows with the square of the air speed. 0.3 to 1.2."""
    lift: float
    """Coefficient of the body's lift across the air flow, as a tilted disc has it (Kutta). 0 to 0.6."""
    flapping: float
    """Drag of the rotors in their plane, as a share of the thrust for each m/s. It is linear. 0 to 0.03 s/m."""
    translation: float
    """Thrust gained in air that flows across the rotors, as a share for each m2/s2. 0 to 0.003 s2/m2."""
    inflow: float
    """Thrust lost in air that flows down through the rotors, as a share for each m/s. 0 to 0.03 s/m."""
    ground: float
    """Strength of the ground effect: 1 is Cheeseman and Bennett's formula for one rotor. 0 to 2."""


_LOW = QuadTask(0.0, 0.8, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0)
_HIGH = QuadTask(0.3, 1.05, 1.2, 0.6, 0.03, 0.003, 0.03, 2.0)


def draw_task(rng: np.random.Generator) -> QuadTask:
    """Draw a vehicle. Each number is uniform in the range that `QuadTask` states."""
    return QuadTask(*rng.uniform(_LOW, _HIGH).tolist())


def nominal_acceleration(axis: NDArray, thrust: ArrayLike) -> NDArray[np.float64]:
    """Return the acceleration `(..., 3)` in m/s2 that the robot's own model expects: thrust and gravity only.

    Args:
        axis: `(..., 3)`, the direction of the thrust, of length 1.
        thrust: `(...)`, the thrust asked for, as an acceleration of the nominal mass, m/s2.

    """
    return np.expand_dims(thrust, -1) * axis - [0.0, 0.0, GRAVITY]


def rotor_gain(task: QuadTask, air_velocity: NDArray, axis: NDArray, height: NDArray) -> NDArray[np.float64]:
    """Return the factor `(...)` on the thrust: moving air and the ground change it. It is 1 in still air, high up.

    Args:
        task: The vehicle.
        air_velocity: `(..., 3)`, the velocity relative to the air, m/s.
        axis: `(..., 3)`, the direction of the thrust, of length 1.
        height: `(...)`, above the ground, m.

    """
    along = (air_velocity * axis).sum(-1)
    across = (air_velocity**2).sum(-1) - along**2
    ground = 1 - task.ground * (_REACH / (4 * np.maximum(height, _LOWEST))) ** 2
    return np.maximum(1 + task.translation * across - task.inflow * along, 0.0) / ground


def rotor_force(
    task: QuadTask, air_velocity: NDArray, axis: NDArray, thrust: NDArray, height: NDArray
) -> NDArray[np.float64]:
    """Return the force `(..., 3)` in N that moving air and the ground add to the thrust.

    Args:
        task: The vehicle.
        air_velocity: `(..., 3)`, the velocity relative to the air, m/s.
        axis: `(..., 3)`, the direction of the thrust, of length 1.
        thrust: `(...)`, what the rotors give in still air high up, N.
        height: `(...)`, above the ground, m.

    """
    pushed = (thrust * rotor_gain(task, air_velocity, axis, height))[..., None]
    across = air_velocity - (air_velocity * axis).sum(-1, keepdims=True) * axis
    return pushed * axis - task.flapping * pushed * across - thrust[..., None] * axis
