"""Wind of one flight: a steady wind from any direction, with gusts."""

import math

import numpy as np
from numpy.typing import NDArray

_STEADY = (2.0, 6.0)  # m/s
_GUST, _GUST_TIME = 0.8, 1.0  # m/s and s: standard deviation of each component, and how long a gust lasts


def draw_wind(rng: np.random.Generator, steps: int, period: float) -> NDArray[np.float64]:
    """Return the velocity of the air `(steps, 3)` in the world's frame, m/s, one row for each control period.

    The steady wind is horizontal, 2 to 6 m/s. The gusts are an Ornstein-Uhlenbeck process in all three axes.

    Args:
        rng: Source of the wind.
        steps: Control periods.
        period: Length of a control period, s.

    """
    speed, angle = rng.uniform(*_STEADY), rng.uniform(-np.pi, np.pi)
    keep = math.exp(-period / _GUST_TIME)
    pushes = _GUST * math.sqrt(1 - keep**2) * rng.standard_normal((steps, 3))
    gusts = np.empty((steps, 3))
    gust = _GUST * rng.standard_normal(3)
    for step in range(steps):
        gust = keep * gust + pushes[step]
        gusts[step] = gust
    return np.array([speed * math.cos(angle), speed * math.sin(angle), 0.0]) + gusts
