"""LoopReport: its text, its limits and verdicts, and the running statistics."""

import dataclasses
import math
import time
from typing import NamedTuple

import numpy as np
import pytest

from msr_runtime import ControlLoop
from msr_runtime.control.report import Limit, LoopLimits, LoopReport, Rate, Running


def test_a_report_reads_well() -> None:
    """One line each for counts, rate, period and execution; figures without data are NaN."""
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


class Figures(NamedTuple):
    """Figures of a loop: of the rate as shares of it, of the execution as shares of the deadline."""

    rate: float = 1.0
    rate_sd: float = 0.0
    execution_mean: float = 0.0
    execution_sd: float = 0.0


def report(figures: Figures, hz: float, deadline: float = 0.8) -> LoopReport:
    """A report of these figures, in Hz and s."""
    seconds = deadline / hz
    return dataclasses.replace(
        ControlLoop(hz=hz, deadline=deadline).report(),
        rate=Rate(hz, figures.rate * hz, hz),
        rate_sd=figures.rate_sd * hz,
        execution_mean=figures.execution_mean * seconds,
        execution_sd=figures.execution_sd * seconds,
    )


@pytest.mark.parametrize("hz", [1.0, 100.0, 1000.0])
@pytest.mark.parametrize(
    ("figures", "name", "verdict"),
    [
        (Figures(), "rate_error", "ok"),
        (Figures(rate=1.049), "rate_error", "ok"),
        (Figures(rate=0.949), "rate_error", "warn"),
        (Figures(rate=1.101), "rate_error", "error"),
        (Figures(rate_sd=0.06), "rate_sd", "warn"),
        (Figures(rate_sd=0.105), "rate_sd", "error"),
        (Figures(execution_mean=0.49), "execution_mean", "ok"),
        (Figures(execution_mean=0.51), "execution_mean", "warn"),
        (Figures(execution_mean=1.01), "execution_mean", "error"),
        (Figures(execution_sd=0.12), "execution_sd", "ok"),
        (Figures(execution_sd=0.13), "execution_sd", "warn"),
        (Figures(execution_sd=0.26), "execution_sd", "error"),
        (Figures(execution_sd=math.nan), "execution_sd", "warn"),
    ],
)
def test_every_figure_is_compared_with_its_limit(figures: Figures, name: str, verdict: str, hz: float) -> None:
    """The same shares get the same verdict at every rate; the verdict of the loop is the worst of its figures."""
    this = report(figures, hz)
    assert {check.name: check.verdict for check in this.checks}[name] == verdict
    assert this.verdict == verdict
    assert f"({verdict})" in str(this)


def test_two_milliseconds_are_no_error_where_there_is_time() -> None:
    """At 10 Hz they are nothing; at 400 Hz, with a deadline of 2 ms, the average tick is late."""
    for hz, verdict in ((10, "ok"), (210, "warn"), (410, "error")):
        assert report(Figures(execution_mean=2e-3 / (0.8 / hz)), hz).verdict == verdict


def test_limits_are_the_callers_to_set() -> None:
    """A loop with its own limits gets its verdict from them."""
    loop = ControlLoop(hz=500, ticks=3, warmup=0, limits=LoopLimits(execution_mean=Limit(1e-9, 2e-9)))
    with loop:
        for _ in loop:
            time.sleep(1e-4)
    assert loop.report().verdict == "error"


def test_running_figures_are_those_of_numpy() -> None:
    """Mean and standard deviation equal those of numpy, without storing the numbers."""
    numbers, running = np.random.default_rng(0).normal(5, 2, 1000), Running()
    assert math.isnan(running.mean)
    assert math.isnan(running.sd)
    for number in numbers.tolist():
        running.add(number)
    assert (running.count, running.mean, running.sd) == pytest.approx((1000, numbers.mean(), numbers.std()))
