"""A setting of the whole process that several loops change: the first changes it, the last restores it."""

import threading
from abc import ABC, abstractmethod


class Shared(ABC):
    """Counts who holds a setting, so that the end of one loop takes nothing from another.

    Ctrl-C may interrupt `hold` and `release` at any point. Call `release` after an interrupted `hold`, and once more
    after an interrupted `release`: it restores whatever was changed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: set[object] = set()  # not a number: who releases twice must not release for another

    def hold(self, holder: object) -> None:
        """Change the setting, unless another holder has changed it already."""
        with self._lock:
            if not self._holders:
                self._look()
                self._holders.add(holder)  # before the change: an interrupted change is restored as well
                self._change()
            self._holders.add(holder)

    def release(self, holder: object) -> None:
        """Restore what was found, unless another holder is left. Without a `hold` before, it does nothing."""
        with self._lock:
            if self._holders == {holder}:
                self._restore()
            self._holders.discard(holder)  # after the restoring: an interrupted one is repeated by the next call

    @abstractmethod
    def _look(self) -> None:
        """Remember the setting as it is found."""

    @abstractmethod
    def _change(self) -> None:
        """Change the setting."""

    @abstractmethod
    def _restore(self) -> None:
        """Restore what `_look` found. It may run again after an interruption."""
