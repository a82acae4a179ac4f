"""Let methods follow streams, score what they predict, and choose their settings on validation streams."""

import itertools
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from online_peers import Make, Online, Sure
from online_streams import Streams

SAMPLES = (0, 1, 3, 10, 20, 40)
"""After how many samples errors over the orbit are shown."""
CERTAIN = (3, 10, 40)
"""After how many samples it is shown how sure a method is."""
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Levels of the intervals whose coverage is counted."""


class Followed(NamedTuple):
    """What a method predicted along streams; errors are over `Streams.size`."""

    next: NDArray[np.float64]
    """`(streams, ticks)`: error on the next sample, before it is learned from."""
    orbit: NDArray[np.float64]
    """`(streams, ticks)`: error over the orbit at the same moment."""
    residuals: dict[int, NDArray[np.float64]]
    """After so many samples: errors over the orbit in standard deviations, `(streams, queries, y)`. Empty if the method
    does not say how sure it is."""


def follow(method: Online, streams: Streams) -> Followed:
    """Predict each tick's sample and queries, then learn from the sample."""
    count, ticks = streams.x.shape[:2]
    method.start(count)
    errors, residuals = np.empty((2, count, ticks)), {}
    for tick in range(ticks):
        x = np.concatenate([streams.x[:, tick, None], streams.query_x[:, tick]], 1)
        wanted = np.concatenate([streams.y[:, tick, None], streams.query_y[:, tick]], 1).astype(np.float64)
        error = method.predict(x) - wanted
        squares = np.sum((error / streams.half_range) ** 2, -1) / streams.size
        errors[0, :, tick] = squares[:, 0]
        errors[1, :, tick] = squares[:, 1:].mean(-1) if squares.shape[1] > 1 else np.nan
        if tick in CERTAIN and isinstance(method, Sure):
            residuals[tick] = (error / np.sqrt(method.variance(x)))[:, 1:]
        method.update(streams.x[:, tick], streams.y[:, tick])
    return Followed(errors[0], errors[1], residuals)


def grid(**settings: Sequence[Any]) -> list[dict[str, Any]]:
    """Return every combination of settings."""
    return [dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())]


def choose(make: Make, settings: Sequence[dict[str, Any]], streams: Streams) -> dict[str, Any]:
    """Return the settings with the lowest error on validation streams: next sample and orbit count alike."""
    if len(settings) == 1:
        return settings[0]
    return min(settings, key=lambda each: badness(follow(make(**each), streams)))


def badness(followed: Followed) -> float:
    """Return what `choose` makes small: the geometric mean of both errors. Infinite if one is not finite."""
    means = [error.mean() for error in (followed.next, followed.orbit) if not np.isnan(error).all()]
    return float(np.exp(np.mean(np.log(means)))) if np.isfinite(means).all() else np.inf


def certainty(residuals: NDArray[np.float64]) -> Mapping[str, Any]:
    """Return the coverage of central intervals and the mean square of residuals that should be standard normal."""
    bounds = [NormalDist().inv_cdf(0.5 + level / 2) for level in LEVELS]
    return {
        "coverage": [float(np.mean(np.abs(residuals) <= bound)) for bound in bounds],
        "mean_square": float(np.mean(residuals**2)),
    }
