"""ControlLoop: a fixed rate held with absolute deadlines, and the figures that say whether it was held."""

import gc
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from msr_runtime.errors import InputError

_KEPT = 2**16  # latest ticks kept for the percentiles: eleven minutes at 100 Hz


@dataclass(frozen=True)
class LoopReport:
    """How a control loop kept its rate. Execution lasts from a tick's start until the next one is asked for."""

    hz: float
    """The rate asked for."""
    ticks: int
    """Ticks done."""
    overruns: int
    """Ticks whose execution took longer than `deadline` periods."""
    skipped: int
    """Periods left out because the tick before was still executing when they were due."""
    period_mean: float
    """Mean time between starts of consecutive ticks, in s; like every figure without data, NaN at first."""
    period_sd: float
    """Standard deviation of it, in s."""
    execution_p50: float
    """Median execution of the latest ticks, in s."""
    execution_p95: float
    execution_p99: float
    execution_max: float
    """The longest execution of all ticks, in s."""

    def __str__(self) -> str:
        p50, p95, p99, longest, mean, sd = (
            f"{1e3 * seconds:.3f}"
            for seconds in (
                self.execution_p50,
                self.execution_p95,
                self.execution_p99,
                self.execution_max,
                self.period_mean,
                self.period_sd,
            )
        )
        return (
            f"{self.ticks} ticks at {self.hz:g} Hz: {self.overruns} overruns, {self.skipped} skipped\n"
            f"period    mean {mean} ms, sd {sd} ms\n"
            f"execution p50 {p50} ms, p95 {p95} ms, p99 {p99} ms, max {longest} ms"
        )


class ControlLoop:
    """Ticks at a fixed rate: `with ControlLoop(hz=100) as loop: for tick in loop: ...`.

    The n-th period starts at `start + n / hz` of the monotonic clock, so that no error adds up. A tick that is still
    executing when the next one is due makes that one skipped, never late. Inside the `with`, the garbage collector is
    off and what exists is frozen out of its sight, because a collection would hold up a tick; counting references goes
    on.
    """

    def __init__(self, hz: float, deadline: float = 0.8, ticks: int | None = None) -> None:
        """Prepare a loop at `hz`.

        Args:
            hz: The rate, in Hz.
            deadline: The share of a period that execution may take; longer is an overrun.
            ticks: How many ticks to do; None goes on until the caller leaves the loop.

        Raises:
            InputError: If the rate or the deadline is not positive and finite.
        """
        for name, value in (("hz", hz), ("deadline", deadline)):
            if not 0 < value < math.inf:
                raise InputError(f"{name} is {value}, but a positive, finite number is wanted")
        self._hz, self._deadline, self._limit = hz, deadline / hz, ticks
        self._executions = np.full(_KEPT, np.nan)  # written from the start, so that no tick meets a page fault
        self._ticks = self._overruns = self._skipped = 0
        self._longest = math.nan
        self._periods, self._period_mean, self._period_squares = 0, 0.0, 0.0

    def __enter__(self) -> Self:
        self._collected = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        gc.unfreeze()
        if self._collected:
            gc.enable()

    def __iter__(self) -> Iterator[int]:
        """The numbers of the periods that are started, 0 first; a gap is what was skipped."""
        clock, period = time.monotonic, 1 / self._hz
        start = clock()
        number, done, before = 0, 0, math.nan
        while self._limit is None or done < self._limit:
            if (wait := start + number * period - clock()) > 0:
                time.sleep(wait)
            begin = clock()
            try:
                yield number
            finally:  # also when the caller leaves the loop by break or by an error
                end = clock()
                self._count(end - begin, begin - before)
            done, before = done + 1, begin
            due = max(number + 1, math.ceil((end - start) / period))
            self._skipped += due - number - 1
            number = due

    def _count(self, execution: float, period: float) -> None:
        self._executions[self._ticks % _KEPT] = execution
        self._ticks += 1
        self._overruns += execution > self._deadline
        self._longest = execution if self._ticks == 1 else max(self._longest, execution)
        if not math.isnan(period):  # Welford's running mean and variance
            self._periods += 1
            distance = period - self._period_mean
            self._period_mean += distance / self._periods
            self._period_squares += distance * (period - self._period_mean)

    def report(self) -> LoopReport:
        """The figures so far."""
        kept = self._executions[: self._ticks] if self._ticks else np.array([np.nan])
        p50, p95, p99 = np.percentile(kept, [50, 95, 99]).tolist()
        return LoopReport(
            hz=self._hz,
            ticks=self._ticks,
            overruns=self._overruns,
            skipped=self._skipped,
            period_mean=self._period_mean if self._periods else math.nan,
            period_sd=math.sqrt(self._period_squares / self._periods) if self._periods else math.nan,
            execution_p50=p50,
            execution_p95=p95,
            execution_p99=p99,
            execution_max=self._longest,
        )
