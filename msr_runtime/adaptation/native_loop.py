"""The inner loop and the losses of a bundle's native code."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.inner_loop import Adaptation
from msr_runtime.inference.native import NativeCode, NetworkState
from msr_runtime.task import Array


class NativeLoop:
    """As `InnerLoop`, by native code. Any thread may call it."""

    def __init__(self, code: NativeCode, start: NetworkState) -> None:
        self._code, self._start = code, start

    def __call__(
        self, x: Array, y: NDArray, steps: int, begin: Array | None = None, check: Callable[[], None] | None = None
    ) -> Adaptation:
        """As `InnerLoop`: one call of the code for all steps, or for each of them where a check comes before each."""
        block, before = self._start.block if begin is None else begin, 0.0
        at_once = 1 if check else steps
        for step in range(0, steps, at_once):
            if check:
                check()
            found, block = self._code.adapt(block, x, y, step, at_once)
            before = before if step else found
        return Adaptation(before, self._code.loss(block, x, y), block)


class NativeLoss:
    """As `SupportLoss`, by native code. Any thread may call it."""

    def __init__(self, code: NativeCode, start: NetworkState) -> None:
        self._code, self._start = code, start

    def each(self, x: Array, y: NDArray, tensors: Mapping[str, Array]) -> Array:
        """The loss of each sample, `(samples,)`."""
        state = self._start.another()
        for name, tensor in tensors.items():
            state.tensors[name][...] = tensor
        one_by_one = (slice(index, index + 1) for index in range(len(x)))
        return np.array([self._code.loss(state.block, x[one], y[one]) for one in one_by_one])
