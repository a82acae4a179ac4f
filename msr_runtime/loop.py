"""ControlLoop: a fixed rate held with absolute deadlines, and the figures that say whether it was held."""

import contextlib
import gc
import math
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np

from msr_runtime.errors import InputError
from msr_runtime.realtime import RealTime
from msr_runtime.timing import LoopLimits, LoopReport, Rate, Running

_KEPT = 2**16  # latest ticks kept for the percentiles: eleven minutes at 100 Hz
_SWITCH = 1e-4  # s


class ControlLoop:
    """Ticks at a fixed rate: `with ControlLoop(hz=100) as loop: for tick in loop: ...`.

    The n-th period starts at `start + n / hz` of the monotonic clock, so that no error adds up. A tick that is still
    executing when the next one is due makes that one skipped, never late. Inside the `with`, the garbage collector is
    off and what exists is frozen out of its sight, because a collection would hold up a tick; counting references goes
    on. Other threads give the interpreter up after 0.1 ms, not Python's 5 ms. The loop itself logs nothing and touches
    no file.
    """

    def __init__(
        self,
        hz: float,
        deadline: float = 0.8,
        ticks: int | None = None,
        warmup: int = 10,
        realtime: bool = False,
        limits: LoopLimits | None = None,
    ) -> None:
        """Prepare a loop at `hz`.

        Args:
            hz: The rate, in Hz.
            deadline: The share of a period that execution may take; longer is an overrun.
            ticks: How many ticks to do, the warm-up's among them; None goes on until the caller leaves the loop.
            warmup: How many ticks stay out of the figures: the first ones meet cold caches, and would be the longest
                for ever.
            realtime: Run the thread under SCHED_FIFO with the process's memory locked, inside the `with`.
            limits: What the report holds the figures against; ros2_control's by default.

        Raises:
            InputError: If the rate or the deadline is not positive and finite, or the warm-up is negative.
        """
        for name, value in (("hz", hz), ("deadline", deadline)):
            if not 0 < value < math.inf:
                raise InputError(f"{name} is {value}, but a positive, finite number is wanted")
        if warmup < 0:
            raise InputError(f"warmup is {warmup}, but 0 or more ticks are wanted")
        self._hz, self._deadline, self._limit, self._warmup = hz, deadline / hz, ticks, warmup
        self._realtime, self._limits = realtime, limits or LoopLimits()
        self._executions = np.full(_KEPT, np.nan)  # written from the start, so that no tick meets a page fault
        self._warmed = self._ticks = self._overruns = self._skipped = 0
        self._longest = self._latest = self._worst = math.nan
        self._second, self._second_ticks = math.nan, 0
        self._period, self._rate, self._execution = Running(), Running(), Running()
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Prepare the process.

        Raises:
            RealTimeError: If real-time scheduling was asked for and the system refuses it.
        """
        if self._realtime:
            self._undo.enter_context(RealTime())
        self._collected, self._switch = gc.isenabled(), sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
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
        sys.setswitchinterval(self._switch)
        self._undo.close()

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
                if warm := done >= self._warmup:
                    self._count(begin, end, before)
                else:
                    self._warmed += 1
            done, before = done + 1, begin if warm else math.nan
            due = max(number + 1, math.ceil((end - start) / period))
            self._skipped += warm * (due - number - 1)
            number = due

    def _count(self, begin: float, end: float, before: float) -> None:
        execution, period = end - begin, begin - before
        self._executions[self._ticks % _KEPT] = execution
        self._ticks += 1
        self._overruns += execution > self._deadline
        self._longest = execution if self._ticks == 1 else max(self._longest, execution)
        self._execution.add(execution)
        if math.isnan(period):
            self._second = begin
            return
        self._period.add(period)
        self._rate.add(1 / period)
        self._second_ticks += 1
        if (passed := begin - self._second) >= 1:
            self._latest = self._second_ticks / passed
            self._worst = min(self._latest, self._worst)  # the first time against NaN: min keeps its first argument
            self._second, self._second_ticks = begin, 0

    @property
    def rate(self) -> Rate:
        """The rate now, on average and in the worst second; may be read from any thread."""
        return Rate(self._latest, 1 / self._period.mean, self._worst)

    def report(self) -> LoopReport:
        """The figures so far."""
        kept = self._executions[: self._ticks] if self._ticks else np.array([np.nan])
        p50, p95, p99 = np.percentile(kept, [50, 95, 99]).tolist()
        return LoopReport(
            hz=self._hz,
            ticks=self._ticks,
            warmup=self._warmed,
            overruns=self._overruns,
            skipped=self._skipped,
            period_mean=self._period.mean,
            period_sd=self._period.sd,
            rate=self.rate,
            rate_sd=self._rate.sd,
            execution_mean=self._execution.mean,
            execution_sd=self._execution.sd,
            execution_p50=p50,
            execution_p95=p95,
            execution_p99=p99,
            execution_max=self._longest,
            limits=self._limits,
        )
