"""SIGTERM and SIGHUP end a control loop: its tick is finished, and then every `finally` and `with` of the program.

By default both kill a Python program at once, without a `finally`: the robot keeps its last command. And process 1 of a
container is not ended by SIGTERM at all unless it has a handler. So the handler stays after the loop: until the program
has brought the robot to a stop, the robot keeps the last command of the loop.
"""

import _thread  # not `threading`: a signal's handler must wait for no lock that the interrupted code may hold
import ctypes
import enum
import signal
import sys
import threading
import time
from types import FrameType

# A supervisor stops the program; or the terminal or the ssh session is gone.
_SIGNALS = (signal.SIGTERM,) if sys.platform == "win32" else (signal.SIGTERM, signal.SIGHUP)
PATIENCE = 1.0
"""Seconds for which a tick may go on after the signal. Then it hangs, and only an interruption frees the robot."""
_SAME = 0.1  # s in which a further signal says the same again: a terminal and its shell both send SIGHUP

# C's view, because Python's own table does not know the handlers of a C library, for example those of ROS
_handler_in_c = ctypes.pythonapi.PyOS_getsig
_handler_in_c.argtypes, _handler_in_c.restype = [ctypes.c_int], ctypes.c_void_p


class Phase(enum.Enum):
    """What a loop does at the moment, and what the first signal does to it."""

    CHANGING = enum.auto()
    """It is being entered or left: the signal waits until it is."""
    TICK = enum.auto()
    """The body of the `for` runs: the signal waits for its end, but not longer than `PATIENCE`."""
    BETWEEN = enum.auto()
    """Anything else inside the `with`: the signal interrupts at once."""


class Stop:
    """The handler of this process, for the loops of its main thread. Python gives signals to no other thread.

    Only a signal that has the system's default handler is taken: one that the program handles or ignores stays as it
    is. `SystemExit` carries 128 plus the signal's number, as shells report it: 143 for SIGTERM, 129 for SIGHUP.

    The handler stays when no loop is left, and then raises `SystemExit` at once: a recording may be open, the robot may
    still move, and the next loop may come.
    """

    def __init__(self) -> None:
        self._phases: dict[object, Phase] = {}
        self._asked, self._asked_at = 0, 0.0  # number and time of the first signal; 0 for none

    def enter(self, loop: object) -> None:
        """Install the handler, if this is the first loop of the main thread. In another thread, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            return
        first = not self._phases
        self._phases[loop] = Phase.CHANGING
        if first:
            self._asked = 0
            for number in _SIGNALS:
                if _handler_in_c(number) is None:  # the system's default
                    signal.signal(number, self._handle)

    def mark(self, loop: object, phase: Phase) -> None:
        """Say what the loop does now."""
        if loop in self._phases:
            self._phases[loop] = phase

    def raise_if_asked(self, loop: object) -> None:
        """End the loop if a signal has waited for this point.

        Raises:
            SystemExit: If one has.
        """
        if self._asked and loop in self._phases:
            raise SystemExit(128 + self._asked)

    def leave(self, loop: object, error: BaseException | None) -> None:
        """Forget a loop that has ended. Calling it again does nothing.

        Args:
            loop: The loop.
            error: The error that ends it, if one does.

        Raises:
            SystemExit: If a signal has waited for this point. It replaces an `Exception`: a program that catches the
                error and goes on must stop as well.
        """
        if loop not in self._phases:
            return
        del self._phases[loop]  # before the next line: from here on a signal raises by itself
        if self._asked and (error is None or isinstance(error, Exception)):
            raise SystemExit(128 + self._asked) from error

    def _handle(self, number: int, _: FrameType | None) -> None:
        now, again = time.monotonic(), self._asked != 0
        if again and now - self._asked_at < _SAME:
            return
        if not again:
            self._asked, self._asked_at = number, now
            phases = self._phases.values()
            if Phase.CHANGING in phases:
                return
            if Phase.TICK in phases:
                _thread.start_new_thread(self._interrupt, (number, now))
                return
        raise SystemExit(128 + self._asked)

    def _interrupt(self, number: int, asked_at: float) -> None:
        time.sleep(PATIENCE)
        # A loop that began since, for example to drive home, was not asked to end.
        if self._asked and self._asked_at == asked_at and Phase.TICK in self._phases.values():
            # a real signal to this thread, because it ends a blocking call too
            signal.pthread_kill(threading.main_thread().ident or 0, number)


STOP = Stop()
"""The one of this process."""
