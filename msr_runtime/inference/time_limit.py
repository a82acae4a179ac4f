"""A time limit for runs that nobody has made on this machine yet. `limited` makes the runs of a session obey it."""

import threading
from types import TracebackType
from typing import Any, Self

LONGEST = 60.0
"""Longest time of a test at load, in s: of the first run of all graphs, and of the self-test. Small networks take
milliseconds."""


class TimeLimit:
    """Inside the `with`, ends every run that it watches once the time is over.

    Args:
        seconds: The time from the begin of the `with`, in s.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.over = False
        """Whether the time is over, so that every run ends with an error."""
        self._watched: list[Any] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True  # a program that ends meanwhile must not wait for it

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def message(self, what: str) -> str:
        """Return the error message for what took too long, `what`."""
        return (
            f"{what} takes longer than the {self.seconds:g} s allowed, though the graphs of `msr export` take "
            "milliseconds in a small network; likely cause: a graph that was changed or made by another program, or a "
            "machine that does much else: get the bundle from its maker again, or load it again on an idle machine"
        )

    def watch(self, options: Any) -> None:
        """End the runs with these options (ONNX Runtime's RunOptions) when the time is over."""
        if options not in self._watched:
            self._watched.append(options)
        if self.over:
            options.terminate = True

    def _end(self) -> None:
        self.over = True  # first: options that come meanwhile are ended where they are watched
        for options in self._watched:
            options.terminate = True
