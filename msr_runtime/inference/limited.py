"""Sessions whose runs obey a time limit: ONNX Runtime ends a run between two operators."""

from collections.abc import Sequence
from typing import Any

from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.time_limit import TimeLimit


def limited(session: onnxruntime.InferenceSession, limit: TimeLimit) -> onnxruntime.InferenceSession:
    """Return the same session, with a time limit on its runs.

    A run with options takes some 30 µs longer, so it is for a test, never for a control loop. A single operator is not
    interrupted, and the making of a session is not either.
    """
    return _Limited(session, limit)


class _Limited(onnxruntime.InferenceSession):
    def __init__(self, session: onnxruntime.InferenceSession, limit: TimeLimit) -> None:
        self.__dict__.update(session.__dict__)  # it shares the model and everything else
        self._limit, self._own = limit, onnxruntime.RunOptions()

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Sequence[Any]:
        return super().run(output_names, input_feed, self._watched(run_options))

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        super().run_with_iobinding(iobinding, self._watched(run_options))

    def _watched(self, given: Any) -> Any:
        """The options of one run. `given` are options of the caller, such as a GPU needs; None for none."""
        options = self._own if given is None else given
        self._limit.watch(options)
        return options
