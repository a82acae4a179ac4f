"""OnlineAdapter: settings that are refused before a thread starts, real time, and what it never does between ticks."""

import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, InputError, OnlineAdapter, UpdateGuard
from msr_runtime.bundle.store import START, encode_start
from msr_runtime.errors import RealTimeError


def test_real_time_is_one_below_the_loops_or_refused(model: AdaptiveModel) -> None:
    """Where the system refuses real time, no thread keeps running."""
    try:
        with OnlineAdapter(model, realtime=True) as online:
            assert online._thread
            thread = online._thread.native_id
            assert thread
            assert os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
            assert os.sched_getparam(thread).sched_priority == 49
            assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER
    except RealTimeError as error:
        assert "limits.conf" in str(error)  # noqa: PT017 - a machine may grant it or refuse it
    assert not any(thread.name == "msr-online" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros(4), np.zeros(2), r"one sample's x has shape \(4,\), but \(3,\) is wanted"),
        (np.zeros((1, 3)), np.zeros(2), r"one sample's x has shape \(1, 3\)"),
        (np.zeros(3), np.zeros(3), "one sample's y has shape"),
        (["a", "b", "c"], np.zeros(2), "dtype"),
    ],
)
def test_a_wrong_shape_is_a_mistake_in_the_program(model: AdaptiveModel, x: Any, y: Any, message: str) -> None:
    """It raises at the first sample, and nothing is queued."""
    online = OnlineAdapter(model)
    with pytest.raises(InputError, match=message):
        online.observe(x, y)
    assert online.report().waiting == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"held_out": -1}, "held_out is -1"),
        ({"held_out": 1}, "none would be learned from; give 2 or more, or 0"),
        ({"hz": 0}, "hz is 0"),
        ({"hz": math.inf}, "hz is inf"),
        ({"novelty": -1.0}, "novelty is -1"),
        ({"novelty": math.nan}, "novelty is nan"),
        ({"start": "here"}, "start is 'here'"),
    ],
)
def test_settings_out_of_range_are_refused(model: AdaptiveModel, options: dict, message: str) -> None:
    """The error comes before any thread starts."""
    with pytest.raises(InputError, match=message):
        OnlineAdapter(model, **options)


def test_a_guard_that_cannot_judge_the_model_says_so_at_once(write: Callable[..., Path], linear: Any) -> None:
    """With a zero v0 there is no relative distance: the error comes before any thread and names the remedy."""
    zero = np.zeros((1, 4), np.float32)
    path = write({START: encode_start({"v": zero, "layer.weight": linear.fold(zero)})})
    model = AdaptiveModel.load(path, self_test=False)
    with pytest.raises(InputError, match="trust=inf"):
        OnlineAdapter(model)
    OnlineAdapter(model, guard=UpdateGuard(trust=math.inf))


QUIET = """
import sys, time
from msr_runtime import ActionGuard, AdaptiveModel, ControlLoop, OnlineAdapter
import numpy as np

model = AdaptiveModel.load(sys.argv[1])
guard = ActionGuard(model.manifest.outputs, hz=500, max_age=1)
ticking, seen = False, []
sys.addaudithook(lambda event, _: seen.append(event) if ticking else None)
rng = np.random.default_rng(0)
with OnlineAdapter(model, hz=100) as online, ControlLoop(hz=500, ticks=300) as loop:
    for tick in loop:
        ticking = tick > 50
        x = rng.standard_normal(3).astype(np.float32)
        guard(np.clip(online.predict(x), -10, 10), time.monotonic())
        online.observe(x, rng.standard_normal(2).astype(np.float32))
        loop.rate
    ticking = False
assert online.report().tried > 0 and guard.report().passed > 0
print(sorted(set(seen)))
"""


def test_nothing_is_opened_or_written_between_ticks(bundle_path: Path) -> None:
    """While the loop runs and the model adapts, Python's audit hook sees no file, socket, import or process."""
    done = subprocess.run(
        [sys.executable, "-c", QUIET, bundle_path], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
