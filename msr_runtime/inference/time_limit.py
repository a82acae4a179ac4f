"""A time limit for graphs that nobody has run on this machine yet: ONNX Runtime ends a run between two operators."""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from msr_runtime.inference._onnxruntime import onnxruntime


class TimeLimit:
    """Inside the `with`, ends every run of its sessions once the time is over.

    A run with options takes some 30 µs longer, so these sessions are for a test, never for a control loop. A single
    operator is not interrupted, and the making of a session is not either.

    Args:
        seconds: The time from the begin of the `with`, in s.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._own = onnxruntime.RunOptions()
        self._watched = [self._own]
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True  # a program that ends meanwhile must not wait for it

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()

    @property
    def over(self) -> bool:
        """Whether the time is over, so that every run ends with an error."""
        return self._own.terminate

    def message(self, what: str) -> str:
        """Return the error message for what took too long, `what`."""
        return (
            f"{what} takes longer than the {self.seconds:g} s allowed, though the graphs of `msr export` take "
            "milliseconds in a small network; likely cause: a graph that was changed or made by another program, or a "
            "machine that does much else: get the bundle from its maker again, or load it again on an idle machine"
        )

    def limited(self, session: onnxruntime.InferenceSession) -> onnxruntime.InferenceSession:
        """Return the same session, with this limit on its runs."""
        return _Limited(session, self)

    def watched(self, given: Any) -> Any:
        """Return the options for one run. `given` are options of the caller, such as a GPU needs; None for none."""
        if given is None:
            return self._own
        if given not in self._watched:
            self._watched.append(given)
            given.terminate = self.over
        return given

    def _end(self) -> None:
        for options in self._watched:  # its own are the first: what comes meanwhile sees that the time is over
            options.terminate = True


class _Limited(onnxruntime.InferenceSession):
    def __init__(self, session: onnxruntime.InferenceSession, limit: TimeLimit) -> None:
        self.__dict__.update(session.__dict__)  # it shares the model and everything else
        self._limit = limit

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Sequence[Any]:
        return super().run(output_names, input_feed, self._limit.watched(run_options))

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        super().run_with_iobinding(iobinding, self._limit.watched(run_options))
