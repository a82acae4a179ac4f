"""Predictions with their deviations: runs of deviation.onnx, in buffers that are kept. A run takes one sample."""

import copy
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from msr_runtime.arrays import FLOAT32, all_finite
from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.belief import Belief
from msr_runtime.inference.predictor import BoundPredictor
from msr_runtime.inference.sample_spec import SampleSpec
from msr_runtime.inference.state import State
from msr_runtime.inference.time_limit import TimeLimit
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


class Deviations:
    """Runs of deviation.onnx. Safe to use from several threads; a call never waits for another one.

    Args:
        session: The session of deviation.onnx, on the CPU.
        x: One sample's x.
        y: One sample's y.
        start: The network at `v0`.
    """

    def __init__(self, session: onnxruntime.InferenceSession, x: SampleSpec, y: SampleSpec, start: State) -> None:
        self._session, self._x, self._y, self._start = session, x, y, start
        self._pool: list[_Slot] = []

    def limited(self, limit: TimeLimit) -> Self:
        """Return the same session with a time limit on its runs, and buffers of its own."""
        other = copy.copy(self)
        other._session, other._pool = limit.limited(self._session), []
        return other

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
            slot = _Slot(self._session, self._x, self._y, self._start)
        try:
            found = [slot(sample, network) for sample in samples]
        finally:
            self._pool.append(slot)
        return found[0] if one else Prediction(*map(np.stack, zip(*found, strict=True)))


class _Slot:
    """Buffers for one sample, bound to the graph."""

    def __init__(self, session: onnxruntime.InferenceSession, x: SampleSpec, y: SampleSpec, start: State) -> None:
        self._session, self._binding = session, session.io_binding()
        self._network = State(start.tensors)
        decays = next(part.shape for part in session.get_inputs() if part.name == "decays")
        made = {"x": (1, *x.shape), "decays": decays, **dict.fromkeys(OUTPUTS, (1, *y.shape))}
        self._arrays = State({name: np.zeros(shape, FLOAT32) for name, shape in made.items()})
        given: dict[str, Any] = {**self._network.values, **self._arrays.values}
        for part in session.get_inputs():
            if part.name != "rows":
                self._binding.bind_ortvalue_input(part.name, given[part.name])
        for name in OUTPUTS:
            self._binding.bind_ortvalue_output(name, given[name])
        self._belief: Belief | None = None
        self._memory: State | None = None

    def __call__(self, x: Array, network: BoundPredictor) -> Prediction:
        belief, arrays = network.belief, self._arrays.tensors
        assert belief is not None
        if self._belief is not belief:  # each network has a belief of its own
            self._belief = None
            self._network.block[...] = network.block
            arrays["decays"][...] = belief.decays
            if self._memory is not belief.memory:
                self._memory = belief.memory
                self._binding.bind_ortvalue_input("rows", self._memory.values["rows"])
            self._belief = belief
        arrays["x"][...] = x
        self._session.run_with_iobinding(self._binding)
        return Prediction(*(arrays[name][0].copy() for name in OUTPUTS))
