"""ControlLoop: it keeps count of what it keeps, and leaves the garbage collector as it was."""

import gc
import itertools
import math
import time

import pytest

from msr_runtime import ControlLoop, InputError


def test_a_quiet_loop_ticks_as_often_as_asked() -> None:
    """Periods are numbered in order, and every one is counted."""
    with ControlLoop(hz=200, ticks=20) as loop:
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
    with ControlLoop(hz=200, ticks=4) as loop:
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
        with ControlLoop(hz=50, deadline=deadline, ticks=3) as loop:
            for _ in loop:
                time.sleep(0.002)
        assert loop.report().overruns == overruns


def test_leaving_early_counts_the_last_tick() -> None:
    """A break or an error ends the loop, and what was done until then is in the report."""
    with ControlLoop(hz=500) as loop:
        for number in loop:
            if number >= 3:
                break
    assert 2 <= loop.report().ticks <= 4


def test_an_error_in_the_loop_goes_on_to_the_caller() -> None:
    """It is not swallowed, the tick is counted and the collector runs again."""
    loop = ControlLoop(hz=500)

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
    """Nothing is collected during the loop, and a collector that was off stays off."""
    (gc.enable if enabled else gc.disable)()
    try:
        with ControlLoop(hz=100, ticks=1):
            assert not gc.isenabled()
            assert gc.get_freeze_count() > 0
        assert gc.isenabled() == enabled
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_a_report_reads_well() -> None:
    """One line each for counts, period and execution; figures that do not exist yet are NaN."""
    loop = ControlLoop(hz=100, ticks=2)
    assert loop.report().ticks == 0
    assert math.isnan(loop.report().execution_p50)
    with loop:
        list(loop)
    counts, period, execution = str(loop.report()).splitlines()
    assert counts.startswith("2 ticks at 100 Hz")
    assert "mean" in period
    assert "p99" in execution


@pytest.mark.parametrize(("hz", "deadline"), [(0, 0.8), (-1, 0.8), (math.nan, 0.8), (100, 0), (math.inf, 1)])
def test_rates_that_cannot_be_kept_are_refused(hz: float, deadline: float) -> None:
    """Zero, negative and endless rates are errors at once."""
    with pytest.raises(InputError, match="positive, finite"):
        ControlLoop(hz=hz, deadline=deadline)
