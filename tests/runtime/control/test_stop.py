"""SIGTERM and SIGHUP end a loop: the tick is finished, `finally` runs, and nobody else's handler is lost."""

import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msr_runtime import ControlLoop
from msr_runtime.control import stop
from msr_runtime.recording import Recording
from msr_runtime.recording.messages import ACTION

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """Begin and end with the system's handlers: the loop's own stay after it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_tick_is_finished_and_the_program_ends(number: signal.Signals) -> None:
    """The body runs to its end, no further tick begins, `finally` runs, and the exit code is that of shells."""
    done = []

    def drive() -> None:
        try:
            with ControlLoop(hz=500, warmup=0) as loop:
                for _ in loop:
                    signal.raise_signal(number)
                    done.append("tick")
            done.append("after the loop")
        finally:
            done.append("finally")

    with pytest.raises(SystemExit) as end:
        drive()
    assert end.value.code == 128 + number
    assert done == ["tick", "finally"]


def test_between_ticks_it_ends_at_once() -> None:
    """The next tick would begin in an hour."""
    loop = ControlLoop(hz=1 / 3600, warmup=0)

    def drive() -> None:
        with loop:
            for _ in loop:
                threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGTERM)).start()

    with pytest.raises(SystemExit, match="143"):
        drive()
    assert loop.report().ticks == 1


def test_outside_the_for_it_ends_at_once() -> None:
    """A signal while the robot prepares inside the `with` does not wait for the first tick."""
    with pytest.raises(SystemExit, match="143"), ControlLoop(hz=100):  # noqa: PT012 - where it is raised is the point
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the signal has waited")


def test_a_tick_that_hangs_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that nobody answers ends with the patience, and not after ten minutes."""
    monkeypatch.setattr(stop, "PATIENCE", 0.2)
    reading, _writing = os.pipe()
    watchdog = threading.Timer(600, os.write, (_writing, b"x"))
    watchdog.start()
    loop = ControlLoop(hz=100, warmup=0)

    def drive() -> None:
        with loop:
            for _ in loop:
                signal.raise_signal(signal.SIGTERM)
                os.read(reading, 1)
                pytest.fail("ten minutes have passed")

    try:
        with pytest.raises(SystemExit, match="143"):
            drive()
    finally:
        watchdog.cancel()
        os.close(reading)
        os.close(_writing)
    assert loop.report().ticks == 1


def test_only_a_second_signal_interrupts_the_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its echo, a moment later, says nothing new; one that comes later interrupts."""
    done = []

    def drive(same: float) -> None:
        monkeypatch.setattr(stop, "_SAME", same)
        with ControlLoop(hz=500, warmup=0) as loop:
            for _ in loop:
                signal.raise_signal(signal.SIGHUP)
                done.append("first")
                signal.raise_signal(signal.SIGTERM)
                done.append("second")

    for same in (3600.0, 0.0):
        with pytest.raises(SystemExit, match="129"):
            drive(same)
    assert done == ["first", "second", "first"]


def test_a_second_signal_does_not_kill_in_the_finally() -> None:
    """After the loop, while the program closes what it opened, the default handler would."""

    def drive() -> None:
        with ControlLoop(hz=500) as loop:
            for _ in loop:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        drive()
    signal.raise_signal(signal.SIGTERM)  # an echo
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL


@pytest.mark.parametrize("number", SIGNALS)
def test_between_two_loops_it_ends_at_once(number: signal.Signals) -> None:
    """The robot keeps the last command of the first loop, so `finally` must run here too, and no second loop begin."""
    done = []

    def drive() -> None:
        try:
            for episode in range(2):
                with ControlLoop(hz=500, ticks=2) as loop:
                    list(loop)
                done.append(episode)
                signal.raise_signal(number)
        finally:
            done.append("finally")

    with pytest.raises(SystemExit, match=str(128 + number)):
        drive()
    assert done == [0, "finally"]


def test_a_loop_in_the_finally_runs() -> None:
    """A program that drives home before it ends does so, and a further signal ends that loop."""
    home = ControlLoop(hz=500, ticks=3, warmup=0)

    def drive() -> None:
        try:
            with ControlLoop(hz=500, ticks=2) as loop:
                list(loop)
            signal.raise_signal(signal.SIGTERM)
        finally:
            with home:
                for tick in home:
                    if tick == 1:
                        signal.raise_signal(signal.SIGHUP)

    with pytest.raises(SystemExit, match="129"):
        drive()
    assert home.report().ticks == 2


def test_a_loop_in_the_finally_outlives_the_patience_with_the_tick_before(monkeypatch) -> None:
    """The drive home is not taken for a tick that hangs."""
    monkeypatch.setattr(stop, "PATIENCE", 0.05)
    home = ControlLoop(hz=500, ticks=1, warmup=0)

    def drive() -> None:
        try:
            with ControlLoop(hz=500) as loop:
                for _ in loop:
                    signal.raise_signal(signal.SIGTERM)
        finally:
            with home:
                for _ in home:
                    time.sleep(0.3)  # the end of the patience lies in this tick

    with pytest.raises(SystemExit, match="143"):
        drive()
    assert home.report().ticks == 1


@pytest.mark.parametrize("leave", [lambda: None, lambda: 1 / 0], ids=["break", "error"])
def test_a_tick_that_ends_the_loop_itself_does_not_lose_the_signal(leave: Callable[[], object]) -> None:
    """A program that catches its own errors and drives on must stop as well."""

    def drive() -> None:
        with ControlLoop(hz=500) as loop:
            for _ in loop:
                signal.raise_signal(signal.SIGTERM)
                leave()
                break
        pytest.fail("the program goes on")

    with pytest.raises(SystemExit, match="143") as end:
        drive()
    assert (end.value.__cause__ is None) == (end.value.__context__ is None)


def test_nested_loops_end_together() -> None:
    """The tick of the inner loop is finished; the outer one begins no further tick."""
    done = []

    def drive() -> None:
        with ControlLoop(hz=500) as outer:
            for _ in outer:
                with ControlLoop(hz=500) as inner:
                    for _ in inner:
                        signal.raise_signal(signal.SIGTERM)
                        done.append("inner")
                done.append("outer")

    with pytest.raises(SystemExit, match="143"):
        drive()
    assert done == ["inner"]


@pytest.mark.parametrize("own", [lambda *_: None, signal.SIG_IGN], ids=["handled", "ignored"])
def test_a_handler_of_the_program_is_left_alone(own: Callable[..., None] | signal.Handlers) -> None:
    """A program that handles or ignores the signal keeps its way, also if it says so inside the `with`."""
    signal.signal(signal.SIGTERM, own)
    with ControlLoop(hz=500, ticks=3, warmup=0) as loop:
        assert signal.getsignal(signal.SIGTERM) == own
        for _ in loop:
            signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGHUP, own)
    assert loop.report().ticks == 3
    assert [signal.getsignal(number) for number in SIGNALS] == [own] * 2


@pytest.mark.parametrize("inside", [False, True])
def test_a_handler_in_c_is_left_alone(inside: bool) -> None:
    """ROS sets its handlers in C, where Python's own table does not show them."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    in_c = ctypes.cast(libc.getpid, ctypes.c_void_p).value  # it does nothing, whatever it is called with
    if not inside:
        libc.signal(signal.SIGTERM, in_c)
    with ControlLoop(hz=500, ticks=3, warmup=0) as loop:
        if inside:
            libc.signal(signal.SIGTERM, in_c)
        for _ in loop:
            signal.raise_signal(signal.SIGTERM)
    assert loop.report().ticks == 3
    assert stop._handler_in_c(signal.SIGTERM) == in_c


def test_a_loop_in_another_thread_takes_no_signals() -> None:
    """Python refuses handlers there, and the loop runs without."""
    loop, seen = ControlLoop(hz=500, ticks=3, warmup=0), []

    def drive() -> None:
        with loop:
            seen.extend(signal.getsignal(number) for _, number in itertools.product(loop, SIGNALS))

    thread = threading.Thread(target=drive)
    thread.start()
    thread.join()
    assert set(seen) == {signal.SIG_DFL}
    assert loop.report().ticks == 3


ROBOT = """
import sys
import numpy as np
from pathlib import Path
from msr_runtime import AdaptiveModel, ControlLoop, OnlineAdapter, Recorder

model = AdaptiveModel.load(sys.argv[1])
rng = np.random.default_rng(0)
try:
    with Recorder(sys.argv[2], model) as recorder, OnlineAdapter(model, recorder=recorder) as online:
        with ControlLoop(hz=200) as loop:
            for done, _ in enumerate(loop):
                x = rng.normal(size=3)
                recorder.observation(x)
                recorder.action(online.predict(x))
                online.observe(x, rng.normal(size=2))
                if done == 20:
                    print("driving", flush=True)
finally:
    Path(sys.argv[2]).with_suffix(".stopped").write_text("the robot stands still")
"""


def end(command: list[str | Path], number: signal.Signals, child: bool = False) -> int:
    """Start the robot, end it while it drives, and return its exit code."""
    robot = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert robot.stdout is not None
    assert robot.stdout.readline() == "driving\n"
    pid = robot.pid
    if child:
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
    os.kill(pid, number)
    robot.communicate(timeout=600)
    return robot.returncode


def check_ended(path: Path) -> None:
    """`finally` has run, and the recording is complete."""
    assert path.with_suffix(".stopped").exists()
    recording = Recording.open(path)
    assert recording.finished()
    assert sum(1 for _ in recording.events(ACTION)) >= 20


@pytest.mark.parametrize("number", SIGNALS)
def test_a_recording_is_finished(tmp_path: Path, bundle_path: Path, number: signal.Signals) -> None:
    """A whole program as the documentation shows it: recording, adapter and loop end, and `finally` runs."""
    path = tmp_path / "drive.mcap"
    assert end([sys.executable, "-c", ROBOT, bundle_path, path], number) == 128 + number
    check_ended(path)


def test_as_process_1_of_a_container(tmp_path: Path, bundle_path: Path) -> None:
    """The system ignores SIGTERM to process 1 unless it has a handler."""
    alone = ["unshare", "--pid", "--fork"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets the tests make no process 1")
    path = tmp_path / "drive.mcap"
    robot = f"import os\nassert os.getpid() == 1\n{ROBOT}"
    assert end([*alone, sys.executable, "-c", robot, bundle_path, path], signal.SIGTERM, child=True) == 143
    check_ended(path)
