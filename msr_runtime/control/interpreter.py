"""The settings of the interpreter that would delay a tick: garbage collector, frozen objects, switch interval."""

import gc
import sys

from msr_runtime.control.shared import Shared

_SWITCH = 1e-4  # s between two requests to hand over the interpreter lock
_STARTUP = 1000  # objects; fewer frozen ones are the interpreter's own: Python 3.12 starts with some hundred


class _Interpreter(Shared):
    def _look(self) -> None:
        self._collects, self._switch = gc.isenabled(), sys.getswitchinterval()
        self._frozen = gc.get_freeze_count() > _STARTUP

    def _change(self) -> None:
        # When a tick becomes due, its thread must wait for the lock that a computing thread holds: at most this long.
        _set_switch(min(_SWITCH, self._switch))
        gc.collect()
        if not self._frozen:  # a program that froze objects itself keeps them: `unfreeze` could not tell them apart
            gc.freeze()  # a collection that a library asks for by gc.collect() then skips all objects that exist now
        gc.disable()

    def _restore(self) -> None:
        if not self._frozen:
            gc.unfreeze()
        if self._collects:
            gc.enable()
        _set_switch(self._switch)


def _set_switch(seconds: float) -> None:
    # Python cuts to whole microseconds: without the half one, what was read as 50 would be set as 49
    sys.setswitchinterval(seconds + 5e-7)


INTERPRETER = _Interpreter()
"""Held by every loop between its entering and its leaving."""
