"""Robots that break what meta-training took for granted, and whether a filter's innovations tell them from fresh ones.

The robot moves anywhere and uses everything that it has: what it never uses, it cannot find broken. The measure of a
stream is the highest mean of the normalized innovation squared over a window.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from online_peers import Sure

from msr_envs.hex_drive.family import HexDrive, WeakThruster
from msr_envs.hex_drive.simulator import HexTask
from msr_envs.ring_nav.family import RingNav
from msr_envs.ring_nav.operator import RingTask
from msr_runtime.task import Array

SAMPLES = 50
"""Samples of each stream."""
WINDOW = 20
"""Samples over which innovations are averaged."""
ALARMS = 0.01
"""Share of fresh robots that may be taken for broken ones."""
Samples = tuple[Array, Array]
"""Streams of samples: x `(streams, samples, x)`, y `(streams, samples, y)`."""


class FarHexDrive(HexDrive):
    """Vehicles whose thrust, drag and mass are 30 to 100 % of their ranges above these."""

    def draw_task(self, rng: np.random.Generator) -> HexTask:
        more = rng.uniform(0.3, 1.0, 3)
        return super().draw_task(rng)._replace(gain=40 + 25 * more[0], drag=2 + 1.7 * more[1], mass=1.6 + 0.9 * more[2])


class FarRingNav(RingNav):
    """Operators whose speed toward the goal and sideways push are 30 to 100 % of their ranges above these."""

    def draw_task(self, rng: np.random.Generator) -> RingTask:
        task, more = super().draw_task(rng), rng.uniform(0.3, 1.0, 2)
        return RingTask(
            task.mount,
            task.gamma,
            task.radial,
            np.sign(task.tangential) * (1.2 + 0.95 * more[0]),
            task.goal_gain * 0 + 1 + 0.5 * more[1],
            task.swirl,
        )


def broken_robots(family: str, streams: int) -> Iterator[tuple[str, Samples]]:
    """Yield each kind of broken robot, and streams of it.

    Args:
        family: `ring-nav` or `hex-drive`.
        streams: The number of streams of each kind.

    """
    if family == "hex-drive":
        yield "one weak thruster", samples_of(WeakThruster(), "test", streams)
        offset = 0.3 * (np.arange(9) == 2)
        yield "gyroscope with an offset of 0.3 rad/s", changed(HexDrive(), streams, lambda x: x + offset)
        yield "parameters outside of their ranges", samples_of(FarHexDrive(), "test", streams)
    else:
        yield "one beam blocked", changed(RingNav(), streams, lambda x: np.where(np.arange(18) == 4, 0.9, x))
        yield "goal with an offset of 0.3 m", changed(RingNav(), streams, lambda x: x + 0.3 * (np.arange(18) == 17))
        yield "parameters outside of their ranges", samples_of(FarRingNav(), "test", streams)


def samples_of(family: Any, split: str, streams: int) -> Samples:
    """Return samples from everywhere: one task a stream."""
    batch = family.sample(np.random.default_rng(7), streams, 1, 2 * SAMPLES, split)
    return batch.query_x[:, SAMPLES:], batch.query_y[:, SAMPLES:]


def changed(family: Any, streams: int, change: Callable[[Array], NDArray]) -> Samples:
    """Return samples of fresh tasks, with another x than the one that y belongs to."""
    x, y = samples_of(family, "test", streams)
    return change(x).astype(np.float32), y


def surprise(method: Sure, samples: Samples) -> NDArray[np.float64]:
    """Return the measure of each stream `(streams,)`, see the module."""
    x, y = samples
    method.start(len(x))
    innovations = np.empty(x.shape[:2])
    for sample in range(x.shape[1]):
        method.update(x[:, sample], y[:, sample])
        innovations[:, sample] = method.innovation()
    sums = np.cumsum(np.pad(innovations, ((0, 0), (1, 0))), 1)
    return np.max(sums[:, WINDOW:] - sums[:, :-WINDOW], 1) / WINDOW


def curve(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Return the share of false alarms and the share of broken robots that are found, at every threshold."""
    thresholds = np.quantile(np.concatenate([inside, outside]), np.linspace(1, 0, 101))
    alarms, finds = ([float(np.mean(side >= each)) for each in thresholds] for side in (inside, outside))
    return alarms, finds


def found(known: NDArray[np.float64], inside: NDArray[np.float64], outside: NDArray[np.float64]) -> tuple[float, float]:
    """Return the false alarms and the share that is found, with the threshold that `known` fresh robots gave."""
    threshold = np.quantile(known, 1 - ALARMS)
    return float(np.mean(inside > threshold)), float(np.mean(outside > threshold))
