"""ControlLoop: it keeps count of what it keeps, and leaves the garbage collector as it was."""

import dataclasses
import gc
import itertools
import math
import os
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import numpy as np
import pytest

from msr_runtime import ControlLoop, InputError
from msr_runtime.errors import RealTimeError
from msr_runtime.timing import Limit, LoopLimits, Rate, Running


def test_a_quiet_loop_ticks_as_often_as_asked() -> None:
    """Periods are numbered in order, and every one is counted."""
    with ControlLoop(hz=200, ticks=20, warmup=0) as loop:
        numbers = list(loop)
    report = loop.report()
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))
    assert len(numbers) == report.ticks == 20
    assert report.skipped >= numbers[-1] - 19


def test_periods_stay_on_the_grid_of_the_first() -> None:
    """No tick starts before its absolute time, however the ones before it were delayed."""
    with ControlLoop(hz=100, ticks=15) as loop:
        origin = time.monotonic()
        starts = [(number, time.monotonic()) for number in loop]
    assert all(now - origin >= number / 100 - 1e-6 for number, now in starts)


def test_long_work_is_an_overrun_and_skips_whole_periods() -> None:
    """Work of three and a half periods skips at least three each time: the loop does not catch up."""
    with ControlLoop(hz=200, ticks=4, warmup=0) as loop:
        numbers = []
        for number in loop:
            numbers.append(number)
            time.sleep(3.5 / 200)
    report = loop.report()
    assert report.overruns == report.ticks == 4
    assert report.skipped >= 12
    assert all(after - before >= 4 for before, after in itertools.pairwise(numbers))
    assert report.execution_max >= report.execution_p99 >= report.execution_p95 >= report.execution_p50 >= 3.5 / 200


def test_the_deadline_is_a_share_of_the_period() -> None:
    """The same work is an overrun under a tight deadline and none under a loose one."""
    for deadline, overruns in ((0.01, 3), (100, 0)):
        with ControlLoop(hz=50, deadline=deadline, ticks=3, warmup=0) as loop:
            for _ in loop:
                time.sleep(0.002)
        assert loop.report().overruns == overruns


def test_leaving_early_counts_the_last_tick() -> None:
    """A break or an error ends the loop, and what was done until then is in the report."""
    with ControlLoop(hz=500, warmup=0) as loop:
        for number in loop:
            if number >= 3:
                break
    assert 2 <= loop.report().ticks <= 4


def test_an_error_in_the_loop_goes_on_to_the_caller() -> None:
    """It is not swallowed, the tick is counted and the collector runs again."""
    loop = ControlLoop(hz=500, warmup=0)

    def fail() -> None:
        with loop:
            for _ in loop:
                raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert loop.report().ticks == 1
    assert gc.isenabled()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_off_inside_and_as_before_outside(enabled: bool) -> None:
    """Nothing is collected during the loop, threads switch fast, and a collector that was off stays off."""
    (gc.enable if enabled else gc.disable)()
    try:
        interval = sys.getswitchinterval()
        with ControlLoop(hz=100, ticks=1):
            assert not gc.isenabled()
            assert gc.get_freeze_count() > 0
            assert sys.getswitchinterval() < interval
        assert gc.isenabled() == enabled
        assert gc.get_freeze_count() == 0
        assert sys.getswitchinterval() == interval
    finally:
        gc.enable()


def test_a_report_reads_well() -> None:
    """One line each for counts, rate, period and execution; figures that do not exist yet are NaN."""
    loop = ControlLoop(hz=100, ticks=5, warmup=2)
    assert loop.report().ticks == 0
    assert math.isnan(loop.report().execution_p50)
    with loop:
        list(loop)
    counts, rate, period, execution = str(loop.report()).splitlines()
    assert counts.startswith("3 ticks at 100 Hz after 2 of warm-up")
    assert "worst" in rate
    assert "mean" in period
    assert "p99" in execution


def test_the_warmup_is_in_no_figure() -> None:
    """Ticks that are long at first leave no trace in overruns, skipped periods, rates or the longest execution."""
    with ControlLoop(hz=200, ticks=4, warmup=2, deadline=100) as loop:
        for done, _ in enumerate(loop):
            time.sleep(0.5 if done < 2 else 0)
    report = loop.report()
    assert (report.warmup, report.ticks) == (2, 2)
    assert report.execution_max < 0.5
    assert report.period_mean < 0.25
    assert report.skipped < 150
    with ControlLoop(hz=200, ticks=3, warmup=5) as loop:
        list(loop)
    assert (loop.report().warmup, loop.report().ticks) == (3, 0)
    assert loop.report().verdict == "warn"


def test_the_live_rate_counts_whole_seconds() -> None:
    """Before a second has passed there is only an average; then the worst second is never above the latest."""
    with ControlLoop(hz=20, warmup=0) as loop:
        began = time.monotonic()
        for number in loop:
            if number == 1:
                assert math.isnan(loop.rate.now)
            if time.monotonic() - began > 2.2:
                break
    rate = loop.rate
    assert 0 < rate.worst <= rate.now <= 21
    assert rate.average == loop.report().rate.average


class Figures(NamedTuple):
    """Figures of a loop at 100 Hz."""

    rate: float = 100.0
    rate_sd: float = 0.0
    execution_mean: float = 0.0
    execution_sd: float = 0.0


@pytest.mark.parametrize(
    ("figures", "name", "verdict"),
    [
        (Figures(), "rate_error", "ok"),
        (Figures(rate=105.0), "rate_error", "ok"),
        (Figures(rate=94.9), "rate_error", "warn"),
        (Figures(rate=110.1), "rate_error", "error"),
        (Figures(rate_sd=6.0), "rate_sd", "warn"),
        (Figures(rate_sd=10.5), "rate_sd", "error"),
        (Figures(execution_mean=1.1e-3), "execution_mean", "warn"),
        (Figures(execution_mean=2.1e-3), "execution_mean", "error"),
        (Figures(execution_sd=1.1e-4), "execution_sd", "warn"),
        (Figures(execution_sd=2.1e-4), "execution_sd", "error"),
        (Figures(execution_sd=math.nan), "execution_sd", "warn"),
    ],
)
def test_every_figure_is_held_against_its_limit(figures: Figures, name: str, verdict: str) -> None:
    """The defaults are ros2_control's; the worst figure is the loop's verdict."""
    report = dataclasses.replace(
        ControlLoop(hz=100).report(),
        rate=Rate(100.0, figures.rate, 100.0),
        rate_sd=figures.rate_sd,
        execution_mean=figures.execution_mean,
        execution_sd=figures.execution_sd,
    )
    assert {check.name: check.verdict for check in report.checks}[name] == verdict
    assert report.verdict == verdict
    assert f"({verdict})" in str(report)


def test_limits_are_the_callers_to_set() -> None:
    """A loop held against limits of its own is judged by them."""
    loop = ControlLoop(hz=500, ticks=3, warmup=0, limits=LoopLimits(execution_mean=Limit(1e-9, 2e-9)))
    with loop:
        for _ in loop:
            time.sleep(1e-4)
    assert loop.report().verdict == "error"


def test_running_figures_are_those_of_numpy() -> None:
    """Mean and standard deviation without keeping the numbers."""
    numbers, running = np.random.default_rng(0).normal(5, 2, 1000), Running()
    assert math.isnan(running.mean)
    assert math.isnan(running.sd)
    for number in numbers.tolist():
        running.add(number)
    assert (running.count, running.mean, running.sd) == pytest.approx((1000, numbers.mean(), numbers.std()))


def test_real_time_is_granted_or_refused_by_name() -> None:
    """Where the system grants it, the loop's thread has it and gives it back; where not, the error says what to do."""
    before = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    try:
        with ControlLoop(hz=500, ticks=3, realtime=True) as loop:
            assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
            inherited = []
            thread = threading.Thread(target=lambda: inherited.append(os.sched_getscheduler(0)))
            thread.start()
            thread.join()
            assert inherited == [os.SCHED_OTHER]
            list(loop)
    except RealTimeError as error:
        assert "refused" in str(error)  # noqa: PT017 - a machine may grant it or refuse it
        assert "--ulimit rtprio=99" in str(error)  # noqa: PT017
    assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == before
    assert gc.isenabled()


@pytest.mark.parametrize("refused", ["sched_setscheduler", "mlockall"])
def test_refused_real_time_leaves_nothing_behind(refused: str) -> None:
    """A process without rights gets the sentence, keeps its policy and its collector."""
    resource, number = ("RLIMIT_RTPRIO", 0) if refused == "sched_setscheduler" else ("RLIMIT_MEMLOCK", 0)
    program = f"""
import ctypes, gc, os, resource
from msr_runtime import ControlLoop
from msr_runtime.errors import RealTimeError
resource.setrlimit(resource.{resource}, ({number}, {number}))
if {refused!r} == "mlockall":
    asked = []
    os.sched_setscheduler = lambda _, policy, __: asked.append(policy & ~os.SCHED_RESET_ON_FORK)
os.getuid() or os.setuid(65534)
try:
    ControlLoop(hz=100, realtime=True).__enter__()
except RealTimeError as error:
    print(error)
if {refused!r} == "mlockall":
    assert asked == [os.SCHED_FIFO, os.SCHED_OTHER]
assert os.sched_getscheduler(0) == os.SCHED_OTHER and gc.isenabled() and not gc.get_freeze_count()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ("SCHED_FIFO" if refused == "sched_setscheduler" else "mlockall") in done.stdout
    assert "limits.conf" in done.stdout


@pytest.mark.parametrize(("hz", "deadline"), [(0, 0.8), (-1, 0.8), (math.nan, 0.8), (100, 0), (math.inf, 1)])
def test_rates_that_cannot_be_kept_are_refused(hz: float, deadline: float) -> None:
    """Zero, negative and endless rates are errors at once."""
    with pytest.raises(InputError, match="positive, finite"):
        ControlLoop(hz=hz, deadline=deadline)


def test_a_negative_warmup_is_refused() -> None:
    """It is a mistake, not an empty warm-up."""
    with pytest.raises(InputError, match="warmup is -1"):
        ControlLoop(hz=100, warmup=-1)
