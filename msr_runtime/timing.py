"""How well a loop keeps its rate: running figures, the limits they are held against, and the verdict."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

Verdict = Literal["ok", "warn", "error"]


class Running:
    """Mean and standard deviation of numbers that come one by one (Welford 1962)."""

    __slots__ = ("_mean", "_squares", "count")

    def __init__(self) -> None:
        self.count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        """Count one more number."""
        self.count += 1
        distance = value - self._mean
        self._mean += distance / self.count
        self._squares += distance * (value - self._mean)

    @property
    def mean(self) -> float:
        """NaN without numbers."""
        return self._mean if self.count else math.nan

    @property
    def sd(self) -> float:
        """NaN without numbers."""
        return math.sqrt(self._squares / self.count) if self.count else math.nan


class Limit(NamedTuple):
    """Above which a figure is worth a warning, and above which it is an error."""

    warn: float
    error: float


_RATE, _EXECUTION_MEAN, _EXECUTION_SD = Limit(5.0, 10.0), Limit(1e-3, 2e-3), Limit(1e-4, 2e-4)


@dataclass(frozen=True)
class LoopLimits:
    """What a loop's figures may be. The defaults are those that ros2_control's controllers have for their diagnostics.

    (`diagnostics.threshold.controllers.*` of the `controller_manager`, with the mean execution held against zero as for
    its synchronous controllers.)
    """

    rate_error: Limit = _RATE
    """Distance of the mean rate from the rate asked for, in Hz."""
    rate_sd: Limit = _RATE
    """Standard deviation of the rate, in Hz."""
    execution_mean: Limit = _EXECUTION_MEAN
    """In s."""
    execution_sd: Limit = _EXECUTION_SD
    """In s."""


class Rate(NamedTuple):
    """What a loop does right now, in Hz; NaN before the first whole second."""

    now: float
    """Ticks of the latest whole second."""
    average: float
    """One over the mean period, of all ticks after the warm-up."""
    worst: float
    """Ticks of the worst whole second."""


class Check(NamedTuple):
    """One figure against its limit."""

    name: str
    value: float
    limit: Limit
    verdict: Verdict
    """A figure that does not exist yet is worth a warning."""


@dataclass(frozen=True)
class LoopReport:
    """How a control loop kept its rate. Execution lasts from a tick's start until the next one is asked for.

    The warm-up's ticks are in none of the figures; a figure without data is NaN.
    """

    hz: float
    """The rate asked for."""
    ticks: int
    """Ticks done, without the warm-up."""
    warmup: int
    """Ticks of the warm-up done before them."""
    overruns: int
    """Ticks whose execution took longer than `deadline` periods."""
    skipped: int
    """Periods left out because the tick before was still executing when they were due."""
    period_mean: float
    """Mean time between starts of consecutive ticks, in s."""
    period_sd: float
    """Standard deviation of it, in s."""
    rate: Rate
    rate_sd: float
    """Standard deviation of one over the time between starts, in Hz."""
    execution_mean: float
    """In s."""
    execution_sd: float
    """In s."""
    execution_p50: float
    """Median execution of the latest ticks, in s."""
    execution_p95: float
    execution_p99: float
    execution_max: float
    """The longest execution of all ticks, in s."""
    limits: LoopLimits

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every figure that has a limit, with its verdict."""
        figures = {
            "rate_error": abs(self.rate.average - self.hz),
            "rate_sd": self.rate_sd,
            "execution_mean": self.execution_mean,
            "execution_sd": self.execution_sd,
        }
        return tuple(
            Check(name, value, limit := getattr(self.limits, name), _verdict(value, limit))
            for name, value in figures.items()
        )

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks."""
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
    return "error" if value > limit.error else "ok" if value <= limit.warn else "warn"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"
