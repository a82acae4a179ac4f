"""Four ways to answer what the nominal model does not know: nothing, an integral, an adaptive law, a learned model.

In every control period, a law gets a `Moment` and returns the acceleration beyond the nominal model's that it expects.
The path follower (`msr_envs.quadrotor.flight`) asks for so much less.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from msr_envs.plane import turn
from msr_envs.quadrotor.simulator import PERIOD
from msr_envs.quadrotor.vehicle import GRAVITY, LARGEST_THRUST, nominal_acceleration
from msr_runtime.task import Predict

_STEEPEST = 0.7  # largest horizontal share of the thrust: 44 degrees
_ROUNDS = 2  # of the search for a thrust that fits the residual which it causes
_ABSURD = 20.0  # m/s2, much larger than any residual acceleration


class Moment(NamedTuple):
    """What a law knows at the start of one control period. All vectors are in the world's frame."""

    wanted: NDArray[np.float64]
    """`(3,)`: the acceleration that the path follower wants, m/s2."""
    position_error: NDArray[np.float64]
    """`(3,)`: reference minus position, m."""
    measured: NDArray[np.float64]
    """`(3,)`: the mean acceleration of the last control period, m/s2."""
    command: NDArray[np.float64]
    """`(3,)`: the thrust that was asked for in the last control period, as an acceleration, m/s2."""
    axis: NDArray[np.float64]
    """`(3,)`: the direction that the thrust really had, in the middle of that period."""
    air_velocity: NDArray[np.float64]
    """`(3,)`: the velocity relative to the air, from an anemometer, m/s."""
    height: float
    """Above the ground, m."""
    heading: float
    """rad."""


class Law(Protocol):
    """Expects an acceleration beyond the nominal model's. It may keep a state, so each flight has its own."""

    def __call__(self, moment: Moment) -> NDArray[np.float64]:
        """Return the expected acceleration `(3,)` beyond the nominal model's, in the world's frame, m/s2."""
        ...


def thrust_command(wanted: NDArray, residual: NDArray) -> NDArray[np.float64]:
    """Return the thrust `(3,)` to ask for, as an acceleration of the nominal mass in the world's frame, m/s2.

    It is within what the vehicle can do: tilted by at most 44 degrees, and at most 22 m/s2.

    Args:
        wanted: The wanted acceleration `(3,)`, m/s2.
        residual: The expected acceleration `(3,)` beyond the nominal model's, m/s2.

    """
    command = wanted - residual + [0.0, 0.0, GRAVITY]
    up = max(float(command[2]), 0.2 * GRAVITY)
    steep = up * _STEEPEST / np.sqrt(1 - _STEEPEST**2)
    across = command[:2] * min(1.0, steep / max(float(np.linalg.norm(command[:2])), 1e-9))
    bounded = np.append(across, up)
    return bounded * min(1.0, LARGEST_THRUST / float(np.linalg.norm(bounded)))


class NoLaw:
    """Expects nothing: proportional and derivative control with the nominal model."""

    def __call__(self, moment: Moment) -> NDArray[np.float64]:
        """Return zeros `(3,)`."""
        return np.zeros_like(moment.wanted)


class Pid:
    """The integral of the position error, which makes a PID controller of the path follower.

    Args:
        gain: 1/s3.
        limit: The largest acceleration that the integral may ask for, on each axis, m/s2.

    """

    def __init__(self, gain: float = 4.0, limit: float = 8.0) -> None:
        self._gain, self._limit = gain, limit
        self._integral = np.zeros(3)

    def __call__(self, moment: Moment) -> NDArray[np.float64]:
        """Return minus the integral `(3,)`."""
        grown = self._integral + self._gain * PERIOD * moment.position_error
        self._integral = np.clip(grown, -self._limit, self._limit)
        return -self._integral


class AdaptiveLaw:
    """An adaptive law without learning: measured minus nominal acceleration, through a low-pass filter.

    This is what L1 adaptive control and incremental nonlinear dynamic inversion (INDI) come to for a disturbance that
    acts like an acceleration.

    Args:
        bandwidth: Of the filter, rad/s. A wider one is better here, because the simulator's acceleration has no noise.
            On a real vehicle, vibrations limit it.

    """

    def __init__(self, bandwidth: float = 20.0) -> None:
        self._share = 1 - np.exp(-bandwidth * PERIOD)
        self._estimate = np.zeros(3)

    def __call__(self, moment: Moment) -> NDArray[np.float64]:
        """Return the filtered residual acceleration `(3,)`."""
        residual = moment.measured - nominal_acceleration(moment.axis, np.linalg.norm(moment.command))
        self._estimate = self._estimate + self._share * (residual - self._estimate)
        return self._estimate


class ModelLaw:
    """Asks a model of the residual acceleration, such as an adapted network.

    Args:
        predict: x `(batch, 7)` to y `(batch, 3)`, see `msr_envs.quadrotor`.

    """

    def __init__(self, predict: Predict) -> None:
        self._predict = predict

    def __call__(self, moment: Moment) -> NDArray[np.float64]:
        """Return the residual acceleration `(3,)` at the thrust which it makes necessary: found in two rounds."""
        command = moment.command
        for _ in range(_ROUNDS):
            x = model_input(moment, command)
            # The output of a network that diverged counts as very wrong. Infinity or NaN would spoil the flight.
            y = np.clip(np.nan_to_num(self._predict(x[None])[0].astype(np.float64), nan=0.0), -_ABSURD, _ABSURD)
            residual = np.append(turn(y[:2], moment.heading), y[2])
            command = thrust_command(moment.wanted, residual)
        return residual


def model_input(moment: Moment, command: NDArray) -> NDArray[np.float32]:
    """Return x `(7,)` for a thrust `(3,)` in the world's frame, m/s2."""
    thrust = float(np.linalg.norm(command))
    air, tilt = turn(moment.air_velocity[:2], -moment.heading), turn(command[:2] / thrust, -moment.heading)
    return np.array([*air, moment.air_velocity[2], *tilt, thrust, moment.height], np.float32)
