"""ControlLoop: it keeps its rate, counts every tick, and restores the settings of the interpreter."""

import gc
import itertools
import math
import sys
import time
from types import SimpleNamespace

import pytest

from msr_runtime import ControlLoop, InputError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The loop's clock, which only `sleep` turns."""

    def sleep(seconds: float) -> None:
        clock.now += seconds

    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr("msr_runtime.control.loop.time", clock)
    return clock


def test_a_quiet_loop_ticks_as_often_as_asked() -> None:
    """Ticks are numbered in order, and each one is counted."""
    with ControlLoop(hz=200, ticks=20, warmup=0) as loop:
        numbers = list(loop)
    report = loop.report()
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))
    assert len(numbers) == report.ticks == 20
    assert report.skipped >= numbers[-1] - 19


def test_periods_stay_on_the_grid_of_the_first() -> None:
    """No tick starts before its absolute time, even if earlier ticks were delayed."""
    with ControlLoop(hz=100, ticks=15) as loop:
        origin = time.monotonic()
        starts = [(number, time.monotonic()) for number in loop]
    assert all(now - origin >= number / 100 - 1e-6 for number, now in starts)


def test_long_work_is_an_overrun_and_skips_whole_periods() -> None:
    """Work of three and a half periods skips at least three periods each time: the loop does not catch up."""
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
    """After a `break` the report contains all ticks up to then."""
    with ControlLoop(hz=500, warmup=0) as loop:
        for number in loop:
            if number >= 3:
                break
    assert 2 <= loop.report().ticks <= 4


def test_an_error_in_the_loop_goes_on_to_the_caller() -> None:
    """The caller gets the error, the tick is counted and the collector is on again."""
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
def test_the_collector_is_off_inside_and_as_before_outside(enabled: bool, collections: list[int]) -> None:
    """Inside, all is collected and frozen, and threads switch fast. A collector that was off before stays off."""
    (gc.enable if enabled else gc.disable)()
    try:
        interval = sys.getswitchinterval()
        with ControlLoop(hz=100, ticks=1):
            assert collections == [2]
            assert not gc.isenabled()
            assert gc.get_freeze_count() > 0
            assert sys.getswitchinterval() < interval
        assert gc.isenabled() == enabled
        assert gc.get_freeze_count() == 0
        assert sys.getswitchinterval() == interval
    finally:
        gc.enable()


def test_the_warmup_is_in_no_figure(clock: SimpleNamespace) -> None:
    """Long first ticks do not appear in overruns, skipped periods, rates or the longest execution."""
    with ControlLoop(hz=200, ticks=4, warmup=2, deadline=100) as loop:
        for done, _ in enumerate(loop):
            clock.sleep(0.5 if done < 2 else 0.001)
    report = loop.report()
    assert (report.warmup, report.ticks) == (2, 2)
    assert report.execution_max == pytest.approx(0.001, rel=1e-3)
    assert report.period_mean == pytest.approx(1 / 200, rel=1e-3)
    assert report.skipped == 0
    with ControlLoop(hz=200, ticks=3, warmup=5) as loop:
        list(loop)
    assert (loop.report().warmup, loop.report().ticks) == (3, 0)
    assert loop.report().verdict == "warn"


def test_the_live_rate_counts_whole_seconds(clock: SimpleNamespace) -> None:
    """In the first second there is only an average; later the worst second is never above the latest."""
    with ControlLoop(hz=16, warmup=0) as loop:  # a period without rounding
        for number in loop:
            if number == 1:
                assert math.isnan(loop.rate.now)
            if number == 16:
                clock.sleep(0.5)  # the next second has ticks 24 to 32
            if number == 48:
                break
    rate = loop.rate
    assert (rate.now, rate.worst) == (16, 9)
    assert rate.average == loop.report().rate.average


@pytest.mark.parametrize(("hz", "deadline"), [(0, 0.8), (-1, 0.8), (math.nan, 0.8), (100, 0), (math.inf, 1)])
def test_rates_that_cannot_be_kept_are_refused(hz: float, deadline: float) -> None:
    """Zero, negative, NaN and infinite values raise at once."""
    with pytest.raises(InputError, match="positive, finite"):
        ControlLoop(hz=hz, deadline=deadline)


def test_a_negative_warmup_is_refused() -> None:
    """It raises instead of counting as no warm-up."""
    with pytest.raises(InputError, match="warmup is -1"):
        ControlLoop(hz=100, warmup=-1)
