"""Inner steps from many samples, for rules that solve a linear system: sums over parts of the samples, then one system.

`adapt.onnx` solves a system with a row per number of the support's y. That is cheap for few samples, and grows with the
third power of their number. The system of v has a row per filter parameter. It is the sum of what each sample adds, so
parts of the samples can follow each other. Time then grows in proportion to the samples, and memory not at all.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.task import Array

_SQUARINGS = 20
"""Products of two matrices of the system's size that adapt.onnx takes to solve it."""
_PER_ROW = 35_000
"""Multiplications in the time that the small operators of one row of solve.onnx take. Measured."""
_PART = 2**22
"""Most numbers of a part's Jacobian in the weights, for layers whose graph writes it out: 16 MiB."""


def cost_of_few(rows: int, size: int) -> float:
    """The multiplications by which adapt.onnx builds and solves the system of the samples.

    Args:
        rows: The numbers of y in the support set.
        size: K, the filter parameters.
    """
    return rows**2 * size + _SQUARINGS * rows**3


def cost_of_many(rows: int, size: int) -> float:
    """The same for the system of v: half of a symmetric product per row of J, and a Cholesky factorization."""
    return rows * size**2 / 2 + size**3 / 3 + _PER_ROW * size


class ManySamples:
    """Runs sums.onnx and solve.onnx. It keeps nothing between two calls, so any thread may call it.

    Args:
        sums: Returns the session of sums.onnx. Neither is called before the first step.
        solve: Returns the session of solve.onnx.
        outputs: Numbers of one sample's y; for classes, their number.
    """

    def __init__(
        self,
        sums: Callable[[], onnxruntime.InferenceSession],
        solve: Callable[[], onnxruntime.InferenceSession],
        outputs: int,
    ) -> None:
        self._sums, self._solve, self._outputs = sums, solve, outputs

    def suits(self, samples: int, filter_parameters: int) -> bool:
        """Return whether this is the cheaper way to adapt to so many samples."""
        rows = samples * self._outputs
        return cost_of_many(rows, filter_parameters) < cost_of_few(rows, filter_parameters)

    def __call__(
        self, x: Array, y: NDArray, steps: int, v: Array, check: Callable[[], None] | None = None
    ) -> tuple[float, dict[str, Array]]:
        """Take inner steps.

        Args:
            x: `(shots, *x)` in raw units, checked.
            y: `(shots, *y)` in raw units, checked.
            steps: Number of inner steps, 1 or more.
            v: Where they begin, `(1, K)`.
            check: Called before each part of the samples. What it raises ends the adaptation.

        Returns:
            The support loss before the first step, and v and the folded weights after the last.
        """
        before = 0.0
        for index in range(steps):
            v, loss = self.step(x, y, v, index, check)
            before = loss if index == 0 else before
        return before, {"v": v, **self.fold(x, y, v)}

    def step(
        self, x: Array, y: NDArray, v: Array, index: int, check: Callable[[], None] | None = None
    ) -> tuple[Array, float]:
        """Take the inner step number `index`, from 0. Returns v `(1, K)` after it, and the support loss before it."""
        solve, (sums, loss) = self._solve(), self._add_up(x, y, v, check)
        feed: dict[str, NDArray] = {"sums": sums, "samples": np.array([len(x)]), "v": v}
        feed |= {part.name: np.array([index]) for part in solve.get_inputs()[3:]}
        (v_next,) = solve.run(None, feed)
        return np.asarray(v_next), loss

    def fold(self, x: Array, y: NDArray, v: Array) -> dict[str, Array]:
        """Return the folded weights of v, by name."""
        # One sample is enough: of its outputs only the weights are wanted.
        sums = self._sums()
        names = [weight.name for weight in _weights(sums)]
        weights = sums.run(names, {"support_x": x[:1], "support_y": y[:1], "v": v})
        return dict(zip(names, map(np.asarray, weights), strict=True))

    def _add_up(
        self, x: Array, y: NDArray, v: Array, check: Callable[[], None] | None
    ) -> tuple[NDArray[np.float64], float]:
        """Return the sums and the mean loss of all samples."""
        total, loss, sums = np.zeros((v.shape[1], v.shape[1] + 1)), 0.0, self._sums()
        entries = sum(math.prod(weight.shape) for weight in _weights(sums))
        parts = -(-len(x) // max(1, _PART // (self._outputs * entries)))
        for part_x, part_y in zip(np.array_split(x, parts), np.array_split(y, parts), strict=True):
            if check:
                check()
            names, feed = ["sums", "loss"], {"support_x": part_x, "support_y": part_y, "v": v}
            part, mean = map(np.asarray, sums.run(names, feed))
            total += part
            loss += float(mean) * len(part_x) / len(x)
        return total, loss


def _weights(sums: onnxruntime.InferenceSession) -> list[onnxruntime.NodeArg]:
    """The outputs of sums.onnx that are folded weights."""
    _, _, *weights = sums.get_outputs()
    return weights
