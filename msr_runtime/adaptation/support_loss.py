"""The loss of a network on samples: runs of loss.onnx."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from msr_runtime.bundle.manifest import LOSSES
from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.state import State
from msr_runtime.task import Array


class SupportLoss:
    """Runs loss.onnx. Any thread may call it.

    Args:
        session: The session of loss.onnx.
        names: The names of the tensors of a state.
    """

    def __init__(self, session: onnxruntime.InferenceSession, names: Collection[str]) -> None:
        self._session = session
        self._inputs = [part.name for part in session.get_inputs() if part.name in names]
        self._each_at_once = any(part.name == LOSSES for part in session.get_outputs())

    def mean(self, x: Array, y: NDArray, network: State) -> float:
        """The loss of a network on checked samples in raw units.

        Args:
            x: `(samples, *x)`.
            y: `(samples, *y)`; labels for a classifier.
            network: The network; loss.onnx reads its weights.
        """
        return float(self._run("loss", x, y, network))

    def each(self, x: Array, y: NDArray, network: State) -> Array:
        """The loss of a network on each sample, `(samples,)`; the arguments are those of `mean`."""
        if self._each_at_once:
            return self._run(LOSSES, x, y, network)
        one_by_one = (slice(index, index + 1) for index in range(len(x)))
        return np.array([self.mean(x[one], y[one], network) for one in one_by_one])

    def _run(self, output: str, x: Array, y: NDArray, network: State) -> Array:
        feed = {"support_x": x, "support_y": y} | {name: network.tensors[name] for name in self._inputs}
        (values,) = self._session.run([output], feed)
        return np.asarray(values)
