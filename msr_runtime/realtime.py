"""Real-time scheduling and locked memory, where the system grants them (Linux)."""

import ctypes
import os
import sys
from types import TracebackType
from typing import Self

from msr_runtime.errors import RealTimeError

LOOP_PRIORITY = 50
"""What ros2_control's controller manager asks for."""
ADAPTATION_PRIORITY = LOOP_PRIORITY - 1
_LOCK_NOW_AND_LATER = 3  # MCL_CURRENT | MCL_FUTURE
_REMEDY = (
    "run as a user with rtprio and memlock limits (/etc/security/limits.conf), or give a container "
    "`--ulimit rtprio=99 --ulimit memlock=-1`"
)


def schedule(thread: int, priority: int) -> None:
    """Run a thread, by the system's number or 0 for the calling one, under SCHED_FIFO; what it starts does not inherit.

    Raises:
        RealTimeError: If the system refuses it.
    """
    if sys.platform != "linux":
        raise RealTimeError(f"real-time scheduling is asked for on {sys.platform}, but it is there on Linux only")
    try:
        os.sched_setscheduler(thread, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError as error:
        raise RealTimeError(f"SCHED_FIFO with priority {priority} is refused ({error.strerror}); {_REMEDY}") from error


class RealTime:
    """Inside the `with`, this thread runs under SCHED_FIFO and no memory of the process is paged out."""

    def __enter__(self) -> Self:
        """Ask for both.

        Raises:
            RealTimeError: If the system refuses one of them; then neither is kept.
        """
        schedule(0, LOOP_PRIORITY)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(_LOCK_NOW_AND_LATER):
            reason = os.strerror(ctypes.get_errno())
            _back_to_normal()
            raise RealTimeError(f"locking the memory (mlockall) is refused ({reason}); {_REMEDY}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ctypes.CDLL(None).munlockall()
        _back_to_normal()


def _back_to_normal() -> None:
    # the flag stays: only a privileged thread may take it off again
    os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
