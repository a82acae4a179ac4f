"""Predictions with their deviations: runs of a graph, in buffers that are kept. A run takes one sample."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from msr_runtime.arrays import FLOAT32, all_finite
from msr_runtime.inference.belief import Belief
from msr_runtime.inference.predictor import BoundPredictor
from msr_runtime.inference.sample_spec import SampleSpec
from msr_runtime.inference.state import State
from msr_runtime.task import Array

OUTPUTS = ("y", "epistemic", "total")
"""The outputs of deviation.onnx."""


class Prediction(NamedTuple):
    """A prediction, and how sure the model is of it. All arrays are `(*y)` or `(batch, *y)`, float32, in raw units."""

    y: Array
    """The prediction."""
    epistemic: Array
    """Standard deviation of y because v is not known exactly. Samples make it smaller."""
    total: Array
    """Standard deviation of an observed y: that of v and that of the noise on y. Samples leave the noise as it is."""


class DeviationGraph(Protocol):
    """What computes a prediction with deviations: deviation.onnx in ONNX Runtime, or a bundle's native code."""

    slots: int
    """How many rows a belief has."""

    def bind(self, network: State, arrays: State) -> Callable[[State], object]:
        """Return a function that predicts with the weights of a network. It takes the memory of a belief's rows.

        It reads and writes this memory at each call: "x" and "decays", and the outputs.
        """
        ...


class Deviations:
    """Runs of a graph of deviations. Safe to use from several threads; a call never waits for another one.

    Args:
        graph: The graph.
        x: One sample's x.
        y: One sample's y.
        start: The network at `v0`.
    """

    def __init__(self, graph: DeviationGraph, x: SampleSpec, y: SampleSpec, start: State) -> None:
        self._graph, self._x, self._y, self._start = graph, x, y, start
        self._pool: list[_Slot] = []

    def __call__(self, x: ArrayLike, network: BoundPredictor) -> Prediction:
        """Predict y and its deviations.

        If the network's belief is not intact afterwards, the deviations are of no use: ask the network that acts then.

        Args:
            x: One sample `(*x)` or a batch `(batch, *x)` in raw units.
            network: The network, with a belief.

        Raises:
            InputError: If `x` has another shape or dtype, or is not finite.
        """
        x = self._x.convert(x)
        one = x.shape == self._x.shape
        samples = x[None] if one else x
        self._x.check_batch(samples)
        if not all_finite(samples.reshape(-1)):
            self._x.check_values(samples)
        try:
            slot = self._pool.pop()  # list.pop and list.append are atomic, so two threads never get the same buffers
        except IndexError:
            slot = _Slot(self._graph, self._x, self._y, self._start)
        try:
            found = [slot(sample, network) for sample in samples]
        finally:
            self._pool.append(slot)
        return found[0] if one else Prediction(*map(np.stack, zip(*found, strict=True)))


class _Slot:
    """Buffers for one sample, bound to the graph."""

    def __init__(self, graph: DeviationGraph, x: SampleSpec, y: SampleSpec, start: State) -> None:
        self._network = start.another()
        made = {"x": (1, *x.shape), "decays": (graph.slots,), **dict.fromkeys(OUTPUTS, (1, *y.shape))}
        self._arrays = State({name: np.zeros(shape, FLOAT32) for name, shape in made.items()})
        self._run = graph.bind(self._network, self._arrays)
        self._belief: Belief | None = None

    def __call__(self, x: Array, network: BoundPredictor) -> Prediction:
        belief, arrays = network.belief, self._arrays.tensors
        assert belief is not None
        if self._belief is not belief:  # each network has a belief of its own
            self._belief = None
            self._network.block[...] = network.block
            arrays["decays"][...] = belief.decays
            self._belief = belief
        arrays["x"][...] = x
        self._run(belief.memory)
        return Prediction(*(arrays[name][0].copy() for name in OUTPUTS))
