"""Real-time scheduling and locked memory for the calling thread, where the system grants them (Linux)."""

import ctypes
import os
import sys
from types import TracebackType
from typing import Self

from msr_runtime.errors import RealTimeError

PRIORITY = 50
"""What ros2_control's controller manager asks for."""
_LOCK_NOW_AND_LATER = 3  # MCL_CURRENT | MCL_FUTURE
_REMEDY = (
    "run as a user with rtprio and memlock limits (/etc/security/limits.conf), or give a container `--cap-add sys_nice "
    "--ulimit rtprio=99 --ulimit memlock=-1`"
)


class RealTime:
    """Inside the `with`, this thread runs under SCHED_FIFO and no memory of the process is paged out.

    Threads that it starts do not inherit the priority: an adaptation must never hold up the loop it serves.
    """

    def __enter__(self) -> Self:
        """Ask for both.

        Raises:
            RealTimeError: If the system refuses one of them; then neither is kept.
        """
        if sys.platform != "linux":
            raise RealTimeError(f"real-time scheduling is asked for on {sys.platform}, but it is there on Linux only")
        self._policy, self._parameter = os.sched_getscheduler(0), os.sched_getparam(0)
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
        except OSError as error:
            raise RealTimeError(
                f"SCHED_FIFO with priority {PRIORITY} is refused ({error.strerror}); {_REMEDY}"
            ) from error
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(_LOCK_NOW_AND_LATER):
            reason = os.strerror(ctypes.get_errno())
            self._restore()
            raise RealTimeError(f"locking the memory (mlockall) is refused ({reason}); {_REMEDY}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ctypes.CDLL(None).munlockall()
        self._restore()

    def _restore(self) -> None:
        # the flag stays: only a privileged thread may take it off again
        os.sched_setscheduler(0, self._policy | os.SCHED_RESET_ON_FORK, self._parameter)
