"""Broken robots: does the filter of a method find them among fresh ones?

The robot moves anywhere and uses everything that it has: what it never uses, it cannot find broken. The measure of a
stream is the one of `OnlineAdapter`: how surprising the first samples are, and those of each window, and how strong the
evidence is that one number of x is at fault. Each is divided by its limit. The limits come from fresh tasks, for each
method by itself.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from online_peers import Sure

from msr_envs.hex_drive.family import HexDrive, WeakThruster
from msr_envs.hex_drive.simulator import HexTask
from msr_envs.ring_nav.family import RingNav
from msr_envs.ring_nav.operator import RingTask
from msr_export.familiarity import familiarity_of
from msr_runtime.adaptation.family import FamilyCheck
from msr_runtime.adaptation.input_faults import FaultCheck
from msr_runtime.bundle.familiarity import Familiarity
from msr_runtime.bundle.input_faults import Fit, slopes, steps_of
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array, Field

SAMPLES = 50
"""Samples of each stream."""
ALARMS = 0.01
"""Share of fresh robots that may be taken for broken ones."""
TICK = 0.1
"""Time between two samples of both robots, in s."""
Measures = NDArray[np.float64]
"""The measure of each stream, `(streams,)`: above 1, it is beyond the limits."""
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


class Learned(NamedTuple):
    """What streams said while a method learned them."""

    nis: NDArray[np.float64]
    """The normalized innovations squared, over all numbers of y, `(streams, samples)`."""
    fit: Fit
    """What each sample says of gains and offsets of x, `(streams, samples, 2, inputs)`."""


def learn(method: Sure, samples: Samples, scale: NDArray[np.float64]) -> Learned:
    """Let a method learn streams.

    Args:
        method: The method.
        samples: The streams.
        scale: That of each number of x.

    """
    x, y = samples
    method.start(len(x))
    nis, fits, steps = np.empty(x.shape[:2]), [], steps_of(scale)
    for sample in range(x.shape[1]):
        one = x[:, sample]
        found, predicted = slopes(method.predict, one, steps), method.predict(one[:, None])[:, 0]
        variances = method.variance(one[:, None])[:, 0]
        method.update(one, y[:, sample])
        nis[:, sample] = method.innovation() * y.shape[-1]
        fits.append(Fit.of(y[:, sample] - predicted, variances, found).both(one / scale))
    pull, weight, squares = (np.stack(part, 1) for part in zip(*(vars(fit).values() for fit in fits), strict=True))
    return Learned(nis, Fit(pull, weight, squares))


class Usual(NamedTuple):
    """What a method says of fresh robots."""

    familiarity: Familiarity
    """What is usual."""
    scaling: Normalization
    """That of y."""

    @classmethod
    def of(cls, samples: Samples, learned: Learned) -> "Usual":
        """Describe fresh robots by their samples, and by what these said."""
        y = samples[1].reshape(-1, samples[1].shape[-1])
        scaling = Normalization(
            input_center=(0.0,), input_scale=(1.0,), output_center=y.mean(0).tolist(), output_scale=y.std(0).tolist()
        )
        return cls(familiarity_of(learned.nis, scaling.normalize_y(samples[1]), learned.fit), scaling)


def surprise(usual: Usual, samples: Samples, learned: Learned, fields: tuple[Field, ...]) -> Measures:
    """Return the measure of each stream `(streams,)`, see the module.

    Args:
        usual: Fresh robots.
        samples: The robots to measure.
        learned: What these said.
        fields: The fields of x.

    """
    measures, fit = np.zeros(len(learned.nis)), learned.fit
    for stream, parts in enumerate(zip(learned.nis, samples[1], fit.pull, fit.weight, fit.squares, strict=True)):
        family = FamilyCheck(usual.familiarity, TICK, usual.scaling, ALARMS)
        inputs = FaultCheck(usual.familiarity, fields, TICK, ALARMS)
        for nis, y, *said in zip(*parts, strict=True):
            family.add(nis, y)
            inputs.add_fit(Fit(*said), len(y))
            over = family.now.surprise / family.now.limit, inputs.now.evidence / inputs.now.limit
            measures[stream] = np.fmax(measures[stream], np.fmax(*over))
    return measures


def curve(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Return the share of false alarms and the share of broken robots that are found, at every threshold."""
    thresholds = np.quantile(np.concatenate([inside, outside]), np.linspace(1, 0, 101))
    alarms, finds = ([float(np.mean(side >= each)) for each in thresholds] for side in (inside, outside))
    return alarms, finds


def found(known: NDArray[np.float64], inside: NDArray[np.float64], outside: NDArray[np.float64]) -> tuple[float, float]:
    """Return the false alarms and the share that is found, with the threshold that `known` fresh robots gave."""
    threshold = np.quantile(known, 1 - ALARMS)
    return float(np.mean(inside > threshold)), float(np.mean(outside > threshold))
