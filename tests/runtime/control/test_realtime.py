"""Real-time scheduling: granted and given back, or refused with the remedy and nothing left behind."""

import gc
import os
import shutil
import subprocess
import sys
import threading

import pytest

from msr_runtime import ControlLoop
from msr_runtime.errors import RealTimeError


def test_real_time_is_granted_or_refused_by_name() -> None:
    """Inside the `with` only, the thread has SCHED_FIFO; if the system refuses, the error says what to do."""
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


FOUND = """
import os, sys
from msr_runtime.control import RealTime
found = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
with RealTime():
    print(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.sched_getparam(0).sched_priority)
assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == found
"""


@pytest.mark.parametrize(
    ("option", "found", "inside"),
    [
        ("--fifo", 80, (os.SCHED_FIFO, 80)),
        ("--fifo", 50, (os.SCHED_FIFO, 50)),
        ("--fifo", 10, (os.SCHED_FIFO, 50)),
        ("--rr", 60, (os.SCHED_RR, 60)),
        ("--batch", 0, (os.SCHED_FIFO, 50)),
    ],
)
def test_the_policy_and_the_priority_that_were_found_come_back(
    option: str, found: int, inside: tuple[int, int]
) -> None:
    """A program under `chrt` keeps a higher priority, and gets a lower one back as it was."""
    if not shutil.which("chrt") or subprocess.run(["chrt", "--fifo", "80", "true"], check=False).returncode:
        pytest.skip("this machine refuses real-time scheduling")
    command = ["chrt", option, str(found), sys.executable, "-c", FOUND]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if "mlockall" in done.stderr:
        pytest.skip("this machine refuses locked memory")
    assert done.returncode == 0, done.stderr
    assert tuple(map(int, done.stdout.split())) == inside


@pytest.mark.parametrize("refused", ["sched_setscheduler", "mlockall"])
def test_refused_real_time_leaves_nothing_behind(refused: str) -> None:
    """A process without rights gets the error and keeps its scheduling policy and its collector."""
    resource, number = ("RLIMIT_RTPRIO", 0) if refused == "sched_setscheduler" else ("RLIMIT_MEMLOCK", 0)
    program = f"""
import ctypes, gc, os, resource
from msr_runtime import ControlLoop
from msr_runtime.errors import RealTimeError
frozen = gc.get_freeze_count()  # Python 3.12 starts with some
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
assert os.sched_getscheduler(0) == os.SCHED_OTHER and gc.isenabled() and gc.get_freeze_count() <= frozen
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ("SCHED_FIFO" if refused == "sched_setscheduler" else "mlockall") in done.stdout
    assert "limits.conf" in done.stdout
