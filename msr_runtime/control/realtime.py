"""Real-time scheduling and locked memory, on Linux and where the system permits them."""

import ctypes
import os
import sys
from types import TracebackType
from typing import Self

from msr_runtime.control.shared import Shared
from msr_runtime.errors import RealTimeError

LOOP_PRIORITY = 50
"""SCHED_FIFO priority of the control loop; the same as that of ros2_control's controller manager."""
ADAPTATION_PRIORITY = LOOP_PRIORITY - 1
"""SCHED_FIFO priority of the adaptation thread: below the loop, above all ordinary programs."""
_DEADLINE = 6  # SCHED_DEADLINE, which runs before every priority; `os` has no name for it
_LOCK_NOW_AND_LATER = 3  # MCL_CURRENT | MCL_FUTURE
_REMEDY = (
    "run as a user with rtprio and memlock limits (/etc/security/limits.conf), or give a container "
    "`--ulimit rtprio=99 --ulimit memlock=-1`, or leave `realtime` off"
)


def schedule(thread: int, priority: int) -> None:
    """Run a thread under SCHED_FIFO. Threads and processes that it starts later are scheduled as usual.

    Args:
        thread: The native id of the thread; 0 is the calling thread.
        priority: The SCHED_FIFO priority, 1 to 99.

    Raises:
        RealTimeError: If the system refuses it, or is not Linux.
    """
    _require_linux()
    try:
        # RESET_ON_FORK: a pool of threads started inside the loop must not run above everything else on the machine
        os.sched_setscheduler(thread, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError as error:
        raise RealTimeError(f"SCHED_FIFO with priority {priority} is refused ({error.strerror}); {_REMEDY}") from error


class RealTime:
    """Inside the `with`, the calling thread runs under SCHED_FIFO, and all memory of the process stays in RAM.

    The priority is 50. A thread that runs above it already, for example under SCHED_FIFO with priority 80, stays as it
    is. The end of the `with` restores the policy and the priority that were found.

    Without the lock, the first access to a page that was swapped out would hold up a tick. The memory is unlocked when
    the last `with` of the process ends. The system does not tell who locked what, so memory that the program locked by
    itself is unlocked then as well.
    """

    def __init__(self) -> None:
        self._found: tuple[int, os.sched_param] | None = None

    def __enter__(self) -> Self:
        """Switch both on.

        Raises:
            RealTimeError: If the system refuses one of the two. Neither is on afterwards.
        """
        _require_linux()
        found = os.sched_getscheduler(0), os.sched_getparam(0)
        try:
            if not _is_above(*found):
                self._found = found
                schedule(0, LOOP_PRIORITY)
            _MEMORY.hold(self)
        except BaseException:  # Ctrl-C too
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            _MEMORY.release(self)
        finally:
            if self._found is not None:
                _put_back(*self._found)
                self._found = None


class _Memory(Shared):
    def _look(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)  # the C library of the process: Python has no mlockall

    def _change(self) -> None:
        if self._libc.mlockall(_LOCK_NOW_AND_LATER):
            reason = os.strerror(ctypes.get_errno())
            raise RealTimeError(f"locking the memory (mlockall) is refused ({reason}); {_REMEDY}")

    def _restore(self) -> None:
        self._libc.munlockall()


_MEMORY = _Memory()


def _require_linux() -> None:
    if sys.platform != "linux":
        raise RealTimeError(
            f"real-time scheduling was requested on {sys.platform}, but only Linux has it; leave `realtime` off"
        )


def _is_above(policy: int, param: os.sched_param) -> bool:
    """Whether a thread runs at the loop's priority or above it, so that the loop would only lower it."""
    policy &= ~os.SCHED_RESET_ON_FORK
    real_time = policy in (os.SCHED_FIFO, os.SCHED_RR) and param.sched_priority >= LOOP_PRIORITY
    return real_time or policy == _DEADLINE


def _put_back(policy: int, param: os.sched_param) -> None:
    try:
        os.sched_setscheduler(0, policy, param)
    except PermissionError:  # only a privileged thread may clear RESET_ON_FORK again
        os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, param)
