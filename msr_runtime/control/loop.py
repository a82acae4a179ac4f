"""ControlLoop: ticks at a fixed rate with absolute deadlines, and figures that show whether the rate was kept."""

import math
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np

from msr_runtime.control.interpreter import INTERPRETER
from msr_runtime.control.realtime import RealTime
from msr_runtime.control.report import LoopLimits, LoopReport, Rate, Running
from msr_runtime.control.stop import STOP, Phase
from msr_runtime.errors import InputError

_KEPT = 2**16  # latest ticks whose times are kept for the percentiles: eleven minutes at 100 Hz


class ControlLoop:
    """Runs the body of a `for` loop at a fixed rate.

    Tick n starts at `start + n / hz` of the monotonic clock, so timing errors do not add up. If a tick is still
    executing when the next one is due, the next one is skipped. The loop never catches up.

    Inside the `with`, three settings change:

    * The garbage collector is off, and existing objects are frozen, because a collection would delay a tick. Reference
      counting still frees memory.
    * Other threads hand over the interpreter lock after 0.1 ms, not after Python's 5 ms.
    * With `realtime`, the thread runs under SCHED_FIFO with locked memory.

    The end of the `with` restores them, after Ctrl-C too. Of several loops in one process, the first changes what is
    common to the process, and the last restores it.

    **SIGTERM and SIGHUP end the loop, and every `finally` and `with` of the program.** By default they would kill the
    program, and the robot would keep its last command. The body of the present tick ends first, so that no message to
    the robot is cut in two. Then the `for` raises `SystemExit`, with exit code 143 for SIGTERM and 129 for SIGHUP. The
    signal does not wait in three cases:

    * No tick is executing: the exception is raised at once. After the loop too, because the robot may still move.
    * The tick still executes after one second: it is interrupted, because it may hang.
    * A second signal comes, more than 0.1 s after the first: it interrupts at once, a `finally` too.

    Ctrl-C interrupts at once, as everywhere in Python. A program that handles or ignores one of the two signals keeps
    its own way, for example a ROS node: leave the loop yourself when ROS is shut down. Only a loop in the main thread
    can take signals.

    The loop itself logs nothing and opens no file.

    Example:
        >>> from msr_runtime import ControlLoop
        >>> with ControlLoop(hz=100, ticks=3, warmup=0) as loop:
        ...     for tick in loop:
        ...         pass  # observe, predict, act
        >>> loop.report().ticks
        3
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
        """Prepare a loop. It starts at the `for`.

        Args:
            hz: The rate, in Hz; for a robot with a bundle, `model.manifest.rate_hz`.
            deadline: Share of a period that the execution of a tick may take. A longer tick counts as an overrun.
            ticks: Number of ticks, including the warm-up. None runs until the caller leaves the loop.
            warmup: Number of first ticks that stay out of the figures. They run with cold caches and would dominate
                the longest times.
            realtime: Run the thread under SCHED_FIFO and lock the memory of the process, inside the `with`. A thread
                with a higher priority keeps it; see `RealTime`.
            limits: Limits for the figures in the report; None takes `LoopLimits()`.

        Raises:
            InputError: If `hz` or `deadline` is not positive and finite, or if `warmup` is negative.
        """
        for name, value in (("hz", hz), ("deadline", deadline)):
            if not 0 < value < math.inf:
                raise InputError(f"{name} is {value}, but a positive, finite number is wanted")
        if warmup < 0:
            raise InputError(f"warmup is {warmup}, but 0 or more ticks are wanted")
        self._hz, self._deadline, self._tick_limit, self._warmup = hz, deadline / hz, ticks, warmup
        self._realtime, self._limits = RealTime() if realtime else None, limits or LoopLimits()
        self._executions = np.full(_KEPT, np.nan)  # written now, so that no tick causes a page fault
        self._warmed = self._ticks = self._overruns = self._skipped = 0
        self._longest = self._latest = self._worst = math.nan
        self._second_began, self._second_ticks = math.nan, 0
        self._period, self._rate, self._execution = Running(), Running(), Running()
        self._entered = False

    def __enter__(self) -> Self:
        """Change the settings of the interpreter.

        Raises:
            InputError: If the loop is entered already.
            RealTimeError: If `realtime` is set and the system refuses real-time scheduling or locked memory.
            SystemExit: If SIGTERM or SIGHUP came meanwhile.
        """
        if self._entered:
            raise InputError(
                "this ControlLoop is entered already, and the end of the inner `with` would end the outer one; make a "
                "ControlLoop for each `with`"
            )
        try:
            self._entered = True
            STOP.enter(self)
            if self._realtime:
                self._realtime.__enter__()
            INTERPRETER.hold(self)
            STOP.mark(self, Phase.BETWEEN)
            STOP.raise_if_asked(self)
        except BaseException as error:  # Ctrl-C comes at any point
            self.__exit__(None, error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            STOP.mark(self, Phase.CHANGING)
            self._restore()
            STOP.leave(self, error)
        finally:  # once more, because Ctrl-C may have ended the first try at any point
            self._restore()
            STOP.leave(self, error)

    def _restore(self) -> None:
        INTERPRETER.release(self)
        if self._realtime:
            self._realtime.__exit__(None, None, None)
        self._entered = False

    def __iter__(self) -> Iterator[int]:
        """Yield the number of each tick, from 0. A gap in the numbers is a run of skipped periods."""
        clock, period = time.monotonic, 1 / self._hz  # not time.time, which jumps when the system clock is set
        start = clock()
        number, done, before = 0, 0, math.nan
        while self._tick_limit is None or done < self._tick_limit:
            # from the start, not from the last tick: a late wake-up must not shift all later ticks
            if (wait := start + number * period - clock()) > 0:
                time.sleep(wait)
            STOP.raise_if_asked(self)
            begin = clock()
            try:
                STOP.mark(self, Phase.TICK)
                yield number
            finally:  # a `break` or an error in the body ends the generator at the `yield`: count that tick too
                end = clock()
                STOP.mark(self, Phase.BETWEEN)
                if warm := done >= self._warmup:
                    self._count(begin, end, before)
                else:
                    self._warmed += 1
            STOP.raise_if_asked(self)
            done, before = done + 1, begin if warm else math.nan
            due = max(number + 1, math.ceil((end - start) / period))  # the first period that has not begun yet
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
            self._second_began = begin
            return
        self._period.add(period)
        self._rate.add(1 / period)
        self._second_ticks += 1
        if (passed := begin - self._second_began) >= 1:
            self._latest = self._second_ticks / passed
            self._worst = min(self._latest, self._worst)  # NaN at first: min(x, nan) is x
            self._second_began, self._second_ticks = begin, 0

    @property
    def rate(self) -> Rate:
        """Latest, average and worst rate. Any thread may read it while the loop runs."""
        return Rate(self._latest, 1 / self._period.mean, self._worst)

    def report(self) -> LoopReport:
        """Return the figures so far."""
        kept = self._executions[: self._ticks] if self._ticks else np.array([np.nan])
        p50, p95, p99 = np.percentile(kept, [50, 95, 99]).tolist()
        return LoopReport(
            hz=self._hz,
            ticks=self._ticks,
            warmup=self._warmed,
            overruns=self._overruns,
            skipped=self._skipped,
            deadline=self._deadline,
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
