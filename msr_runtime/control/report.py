"""How well a loop keeps its rate: running statistics, limits for them, and the verdict."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

Verdict = Literal["ok", "warn", "error"]
"""How a figure compares with its limit, from best to worst."""


class Running:
    """Mean and standard deviation of a stream of numbers, without storing them (Welford 1962)."""

    # Welford's update, because a sum of squares loses all digits when the deviation is small against the mean.
    __slots__ = ("_mean", "_squares", "count")

    def __init__(self) -> None:
        self.count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        """Add one number."""
        self.count += 1
        distance = value - self._mean
        self._mean += distance / self.count
        self._squares += distance * (value - self._mean)

    @property
    def mean(self) -> float:
        """Mean of the numbers; NaN if there are none."""
        return self._mean if self.count else math.nan

    @property
    def sd(self) -> float:
        """Standard deviation of the numbers; NaN if there are none."""
        return math.sqrt(self._squares / self.count) if self.count else math.nan


class Limit(NamedTuple):
    """The two limits of one figure, as shares: 0.05 is 5 %."""

    warn: float
    """Above this value the verdict is `warn`."""
    error: float
    """Above this value the verdict is `error`."""


_RATE, _EXECUTION_MEAN, _EXECUTION_SD = Limit(0.05, 0.1), Limit(0.5, 1.0), Limit(0.125, 0.25)


@dataclass(frozen=True)
class LoopLimits:
    """Limits for the figures of a loop: shares of its rate and of its deadline, so that they fit every rate.

    The defaults for the rate are those of ros2_control's diagnostics at its usual 100 Hz: `warn` from 5 Hz and `error`
    from 10 Hz. The defaults for the execution are not: ros2_control allows 2 ms at every rate, for one controller of
    many, while a tick here is all that the robot does in a period. On average it may take half the deadline, then
    `warn` begins. Above the whole deadline, `error` begins. A loop within both `warn` limits has its deadline four
    standard deviations above its mean.

    Example:
        >>> from msr_runtime import ControlLoop, Limit, LoopLimits
        >>> limits = LoopLimits(execution_mean=Limit(warn=0.3, error=0.6))  # at 50 Hz: 4.8 ms and 9.6 ms
        >>> loop = ControlLoop(hz=50, deadline=0.8, limits=limits)
        >>> loop.report().limits.execution_mean.warn
        0.3
    """

    rate_error: Limit = _RATE
    """Distance of the mean rate from the requested rate, as a share of the requested rate."""
    rate_sd: Limit = _RATE
    """Standard deviation of the rate, as a share of the requested rate."""
    execution_mean: Limit = _EXECUTION_MEAN
    """Mean execution time of a tick, as a share of the deadline."""
    execution_sd: Limit = _EXECUTION_SD
    """Standard deviation of the execution time, as a share of the deadline."""


class Rate(NamedTuple):
    """The rate of a running loop, in Hz. `now` and `worst` are NaN before the first full second."""

    now: float
    """Ticks per second in the latest full second."""
    average: float
    """Inverse of the mean period over all ticks after the warm-up."""
    worst: float
    """Ticks per second in the slowest full second."""


class Check(NamedTuple):
    """One figure, compared with its limit."""

    name: str
    """The name of the figure in `LoopLimits`."""
    value: float
    """The figure as a share, like its limit; NaN if there is no data yet."""
    limit: Limit
    verdict: Verdict
    """A figure without data gets `warn`."""


@dataclass(frozen=True)
class LoopReport:
    """How well a control loop kept its rate. `print` shows it in four lines.

    The execution time of a tick is the time that the body of the loop takes. The ticks of the warm-up are in no figure.
    A figure without data is NaN.
    """

    hz: float
    """Requested rate, in Hz."""
    ticks: int
    """Ticks after the warm-up."""
    warmup: int
    """Ticks of the warm-up."""
    overruns: int
    """Ticks whose execution took longer than the deadline."""
    skipped: int
    """Periods without a tick, because the tick before was still executing when they were due."""
    deadline: float
    """How long the execution of a tick may take, in s."""
    period_mean: float
    """Mean time between the starts of consecutive ticks, in s."""
    period_sd: float
    """Standard deviation of the time between starts, in s."""
    rate: Rate
    """Latest, average and worst rate, in Hz."""
    rate_sd: float
    """Standard deviation of the inverse of the time between starts, in Hz."""
    execution_mean: float
    """Mean execution time, in s."""
    execution_sd: float
    """Standard deviation of the execution time, in s."""
    execution_p50: float
    """Median execution time of the latest 65,536 ticks, in s."""
    execution_p95: float
    """95th percentile of the execution time of the same ticks, in s."""
    execution_p99: float
    """99th percentile of the execution time of the same ticks, in s."""
    execution_max: float
    """Longest execution time of all ticks, in s."""
    limits: LoopLimits
    """The limits that `checks` and `verdict` use."""

    @property
    def checks(self) -> tuple[Check, ...]:
        """All figures that have a limit, each with its verdict."""
        figures = {
            "rate_error": abs(self.rate.average - self.hz) / self.hz,
            "rate_sd": self.rate_sd / self.hz,
            "execution_mean": self.execution_mean / self.deadline,
            "execution_sd": self.execution_sd / self.deadline,
        }
        return tuple(
            Check(name, value, limit := getattr(self.limits, name), _verdict(value, limit))
            for name, value in figures.items()
        )

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all checks."""
        verdicts = {check.verdict for check in self.checks}
        return "error" if "error" in verdicts else "warn" if "warn" in verdicts else "ok"

    def __str__(self) -> str:
        error, rate_sd, mean, sd = (check.verdict for check in self.checks)
        return (
            f"{self.ticks} ticks at {self.hz:g} Hz after {self.warmup} of warm-up: {self.overruns} overruns, "
            f"{self.skipped} skipped; {self.verdict}\n"
            f"rate      mean {self.rate.average:.3f} Hz ({error}), sd {self.rate_sd:.3f} Hz ({rate_sd}), "
            f"latest second {self.rate.now:.1f} Hz, worst {self.rate.worst:.1f} Hz\n"
            f"period    mean {_ms(self.period_mean)}, sd {_ms(self.period_sd)}\n"
            f"execution mean {_ms(self.execution_mean)} ({mean}), sd {_ms(self.execution_sd)} ({sd}), "
            f"p50 {_ms(self.execution_p50)}, p95 {_ms(self.execution_p95)}, p99 {_ms(self.execution_p99)}, "
            f"max {_ms(self.execution_max)}"
        )


def _verdict(value: float, limit: Limit) -> Verdict:
    # NaN, a figure without data, fails both comparisons and becomes "warn"
    return "error" if value > limit.error else "ok" if value <= limit.warn else "warn"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"
