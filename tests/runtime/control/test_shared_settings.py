"""What a loop changes of its process and its thread: shared with other loops, restored after Ctrl-C at any point."""

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import pytest

from msr_runtime import ControlLoop, InputError
from msr_runtime.control import RealTime, realtime
from msr_runtime.control.shared import Shared


class State(NamedTuple):
    """What a loop changes."""

    collects: bool
    frozen: bool
    switch: float
    handlers: list[Any]


def state() -> State:
    """What is set now."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    return State(gc.isenabled(), gc.get_freeze_count() > 0, sys.getswitchinterval(), handlers)


@pytest.fixture(autouse=True)
def _after_a_first_loop(collections: list[int]) -> None:
    """The first loop of a process leaves its handler of SIGTERM and SIGHUP, on purpose."""
    with ControlLoop(hz=100):
        pass


def test_two_threads_share_the_interpreter() -> None:
    """The loop that ends first takes nothing from the other one; the last one restores everything."""
    before, entered, leave = state(), threading.Event(), threading.Event()

    def other() -> None:
        with ControlLoop(hz=100):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with ControlLoop(hz=100):
        thread.start()
        entered.wait()
    inside = state()
    assert (inside.collects, inside.frozen) == (False, True)
    assert inside.switch == pytest.approx(1e-4)
    leave.set()
    thread.join()
    assert state() == before


def test_a_nested_loop_shares_the_interpreter() -> None:
    """The end of the inner loop leaves the collector off."""
    before = state()
    with ControlLoop(hz=100):
        outer = state()
        with ControlLoop(hz=100):
            assert state() == outer
        assert state() == outer
    assert state() == before


def test_what_the_program_has_set_itself_stays() -> None:
    """Objects that the program froze stay frozen, and a shorter switch interval stays short."""
    interval = sys.getswitchinterval()
    gc.freeze()
    sys.setswitchinterval(5e-5)
    try:
        before = state()
        with ControlLoop(hz=100):
            assert sys.getswitchinterval() == pytest.approx(5e-5)
        assert state() == before
        assert before.frozen
    finally:
        gc.unfreeze()
        sys.setswitchinterval(interval)


def test_one_loop_is_entered_once() -> None:
    """Entering it again inside its own `with` is refused, and changes nothing; after the `with` it may be entered."""
    before, loop = state(), ControlLoop(hz=100)
    with loop:
        inside = state()
        with pytest.raises(InputError, match="entered already"):
            loop.__enter__()
        assert state() == inside
    with loop:
        assert state() == inside
    assert state() == before


def interrupted(run: Callable[[], Any], point: int) -> bool:
    """Run with Ctrl-C at one of the points where Python looks for signals; False if there are fewer points.

    One point is left out: the call of `__exit__` itself, before its first line: nothing of it has run yet.
    """
    count, leaving = 0, ControlLoop.__exit__.__code__

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        # Python looks for signals where a function of its own begins, and where one in C has returned
        own = frame.f_code is interrupted.__code__ or (event == "call" and frame.f_code is leaving)
        if own or event not in ("call", "c_return"):
            return
        count += 1
        if count == point + 1:
            raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        run()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


class Pretended:
    """A system that grants everything, and remembers it."""

    def __init__(self) -> None:
        self.scheduled, self.locked = (os.SCHED_OTHER, 0), False

    def sched_getscheduler(self, _: int) -> int:
        """The policy."""
        return self.scheduled[0]

    def sched_getparam(self, _: int) -> os.sched_param:
        """The priority."""
        return os.sched_param(self.scheduled[1])

    def sched_setscheduler(self, _: int, policy: int, param: os.sched_param) -> None:
        """Grant it."""
        self.scheduled = policy, param.sched_priority

    def mlockall(self, _: int) -> int:
        """Grant it."""
        self.locked = True
        return 0

    def munlockall(self) -> int:
        """Grant it."""
        self.locked = False
        return 0


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    """In place of a real one, which may refuse real time, and which nobody can ask what is locked."""
    system = Pretended()
    for name in ("sched_getscheduler", "sched_getparam", "sched_setscheduler"):
        monkeypatch.setattr(os, name, getattr(system, name))
    monkeypatch.setattr(realtime.ctypes, "CDLL", lambda *_, **__: system)
    return system


@pytest.mark.parametrize("real_time", [False, True])
def test_ctrl_c_at_any_point_restores_everything(real_time: bool, system: Pretended) -> None:
    """Of all points of entering and leaving, none leaves a changed setting behind."""
    before, points = state(), 0

    def run() -> None:
        with ControlLoop(hz=100, realtime=real_time):
            pass

    while interrupted(run, points):
        assert state() == before, f"point {points}"
        assert (system.scheduled, system.locked) == ((os.SCHED_OTHER, 0), False), f"point {points}"
        points += 1
    assert points > 40
    assert state() == before


PROGRAM = """
import gc, os, signal, sys
from msr_runtime import ControlLoop
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins with Ctrl-C ignored
gc.unfreeze()  # Python 3.12 starts with frozen objects
for _ in range(int(sys.argv[1])):
    if not (child := os.fork()):
        found = gc.isenabled(), gc.get_freeze_count(), sys.getswitchinterval()
        try:
            print(os.getpid(), flush=True)
            while True:
                with ControlLoop(hz=1e4, ticks=1, warmup=0) as loop:
                    list(loop)
        except KeyboardInterrupt:
            os._exit(found != (gc.isenabled(), gc.get_freeze_count(), sys.getswitchinterval()))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_real_ctrl_c_at_random_restores_everything() -> None:
    """Twenty processes enter and leave loops until the signal comes."""
    rng, tries = random.Random(0), 20
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tries)], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    with program, program.stdout as lines:
        for _ in range(tries):
            child = int(lines.readline())
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGINT)
            assert int(lines.readline()) == 0


def test_memory_is_unlocked_by_the_last(system: Pretended) -> None:
    """The end of one `with` leaves the memory locked for the other."""
    with RealTime():
        with RealTime():
            assert system.locked
        assert system.locked
        assert system.scheduled == (os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, 50)
    assert not system.locked
    assert system.scheduled == (os.SCHED_OTHER, 0)


class Counted(Shared):
    """A setting that counts its changes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def _look(self) -> None:
        self.calls.append("look")

    def _change(self) -> None:
        self.calls.append("change")

    def _restore(self) -> None:
        self.calls.append("restore")


def test_a_setting_counts_its_holders() -> None:
    """Who releases twice, or never held, does not release for another."""
    setting = Counted()
    setting.release("a")
    setting.hold("a")
    setting.hold("b")
    setting.release("a")
    setting.release("a")
    assert setting.calls == ["look", "change"]
    setting.release("b")
    setting.release("b")
    assert setting.calls == ["look", "change", "restore"]
