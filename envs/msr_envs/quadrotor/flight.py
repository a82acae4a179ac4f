"""Fly a figure eight in wind: the closed-loop measure of Quadrotor.

A path follower wants an acceleration: that of the reference, plus gains times the errors of position and velocity. A
law (`msr_envs.quadrotor.laws`) says what the nominal model does not know. The thrust that remains goes to the flight
controller on board.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.quadrotor.autopilot import attitude, heading_of, thrust_axis
from msr_envs.quadrotor.laws import Law, Moment, thrust_command
from msr_envs.quadrotor.simulator import PERIOD, STATE, simulator
from msr_envs.quadrotor.vehicle import GRAVITY, MASS, QuadTask
from msr_envs.quadrotor.wind import draw_wind

STEPS = 500
"""Control periods in one flight, which takes 10 s: two laps of the figure eight."""

_LAP = 5.0  # s
_SIZE = np.array([1.5, 0.75, 0.4])  # half of the figure's length, width and height, m
_MIDDLE = 0.8  # m above the ground
_LEAD = 4  # control periods: the vehicle tilts so much later than it is asked to
_POSITION_GAIN, _VELOCITY_GAIN = 6.0, 4.0  # 1/s2, 1/s


class Flight(NamedTuple):
    """One flight."""

    positions: NDArray[np.float64]
    """`(steps, 3)`: the vehicle's position at the end of each control period, m."""
    reference: NDArray[np.float64]
    """`(steps, 3)`: the reference's position at the same times, m."""

    @property
    def error(self) -> float:
        """Root mean square (RMS) of the distance to the reference, m."""
        return float(np.sqrt(np.square(self.positions - self.reference).sum(-1).mean()))


class Weather(NamedTuple):
    """What is drawn for one flight, beside the vehicle."""

    wind: NDArray[np.float64]
    """`(steps, 3)`: the velocity of the air in the world's frame, m/s."""
    heading: float
    """The heading that the vehicle keeps, rad."""


def draw_weather(rng: np.random.Generator) -> Weather:
    """Draw the wind and the heading of a flight."""
    return Weather(draw_wind(rng, STEPS, PERIOD), rng.uniform(-np.pi, np.pi))


def figure_eight(step: NDArray | float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the reference's position, velocity and acceleration, each `(..., 3)`, after `step` control periods.

    In m, m/s and m/s2. One end of the figure is high, and the other one is near the ground.
    """
    rate = 2 * np.pi / _LAP
    phase = rate * PERIOD * np.asarray(step, np.float64)
    once, twice = phase, 2 * phase
    position = _SIZE * np.stack([np.sin(once), np.sin(twice), np.sin(once)], -1) + [0.0, 0.0, _MIDDLE]
    velocity = rate * _SIZE * np.stack([np.cos(once), 2 * np.cos(twice), np.cos(once)], -1)
    acceleration = -(rate**2) * _SIZE * np.stack([np.sin(once), 4 * np.sin(twice), np.sin(once)], -1)
    return position, velocity, acceleration


def start_state(heading: float) -> NDArray[np.float64]:
    """Return the state `(17,)` at the start: upright on the reference, with its velocity and the nominal thrust."""
    position, velocity, _ = figure_eight(0)
    state = np.zeros(STATE)
    state[:3], state[3:7], state[7:10] = position, attitude(np.array([0.0, 0.0, 1.0]), heading), velocity
    state[13:] = MASS * GRAVITY / 4
    return state


def on_the_ground(state: NDArray) -> bool:
    """Return whether the vehicle has come down to the ground."""
    return bool(state[2] <= 0)


def fly(task: QuadTask, law: Law, weather: Weather) -> Flight:
    """Fly the figure eight with the vehicle `task` in the simulator. A vehicle that hits the ground stays there.

    Args:
        task: The vehicle. The controller does not see it.
        law: What the controller expects beyond the nominal model. It must be new: it may keep a state.
        weather: Wind and heading.

    """
    state = start_state(weather.heading)
    command, measured, axis = np.array([0.0, 0.0, GRAVITY]), np.zeros(3), np.array([0.0, 0.0, 1.0])
    positions = np.empty((STEPS, 3))
    for step in range(STEPS):
        if on_the_ground(state):
            positions[step:] = state[:3]
            break
        position, velocity, _ = figure_eight(step)
        _, _, acceleration = figure_eight(step + _LEAD)
        error = position - state[:3]
        wanted = acceleration + _POSITION_GAIN * error + _VELOCITY_GAIN * (velocity - state[7:10])
        air = state[7:10] - weather.wind[step]
        heading = heading_of(state[3:7])
        moment = Moment(wanted, error, measured, command, axis, air, float(state[2]), heading)
        command = thrust_command(wanted, law(moment))
        before = state
        state = simulator().advance(task, state, command, weather.heading, weather.wind[step])
        measured = (state[7:10] - before[7:10]) / PERIOD
        axis = (thrust_axis(before[3:7]) + thrust_axis(state[3:7])) / 2
        positions[step] = state[:3]
    return Flight(positions, figure_eight(np.arange(1, STEPS + 1))[0])
