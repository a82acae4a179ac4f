"""The inner loop on a robot: one inner step again and again, from buffer to buffer, and the loss where it ends."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime._onnxruntime import onnxruntime
from msr_runtime.manifest import STEP, next_name
from msr_runtime.session import State
from msr_runtime.task import Array


class Adaptation(NamedTuple):
    """Where the inner loop ended."""

    loss_before: float
    """The support loss at the start."""
    loss_after: float
    """The support loss at the end."""
    block: Array
    """The adapted v and weights as a state's block; it is not checked for being finite."""


class InnerLoop:
    """adapt.onnx and loss.onnx, starting from one state or from wherever it is told.

    Safe to call from several threads: each call takes buffers out of a pool for itself and puts them back.
    """

    def __init__(self, adapt: onnxruntime.InferenceSession, loss: onnxruntime.InferenceSession, start: State) -> None:
        self._adapt, self._loss, self._start = adapt, loss, start
        self._pool: list[_Buffers] = []
        self._judged = [part.name for part in loss.get_inputs() if part.name in start.tensors]

    def __call__(self, x: Array, y: NDArray, steps: int, begin: Array | None = None) -> Adaptation:
        """Take at least one step on the support set x `(shots, *x)`, y `(shots, *y)`, in raw units and checked.

        `begin` is the block of another state to start from; it is copied before the first step.
        """
        try:
            buffers = self._pool.pop()  # atomic: no other thread can hold the same buffers
        except IndexError:
            buffers = _Buffers(self._adapt, self._loss, self._start)
        buffers.fill(x, y)
        buffers.step[0] = 0
        if begin is None:
            self._adapt.run_with_iobinding(buffers.first)
        else:
            buffers.states[1].block[...] = begin
            buffers.states[1].send()
            self._adapt.run_with_iobinding(buffers.steps[0])
        before = float(buffers.before if begin is None else buffers.between)
        for step in range(1, steps):
            buffers.step[0] = step
            self._adapt.run_with_iobinding(buffers.steps[step % 2])
        end = (steps - 1) % 2
        self._loss.run_with_iobinding(buffers.losses[end])
        buffers.states[end].fetch()
        result = Adaptation(before, float(buffers.after), buffers.states[end].block.copy())
        self._pool.append(buffers)  # not after an error, which may have left them bound to half a support set
        return result

    def loss(self, x: Array, y: NDArray, tensors: Mapping[str, Array]) -> float:
        """The loss of checked samples in raw units under the weights of a state, by name."""
        feed = {"support_x": x, "support_y": y} | {name: tensors[name] for name in self._judged}
        (loss,) = self._loss.run(None, feed)
        return float(np.asarray(loss))


class _Buffers:
    """All that one adaptation reads and writes, and the bindings of its runs: a step reads one state, writes the other.

    The values of ONNX Runtime share the arrays' memory, so that nothing is converted between two steps.
    """

    def __init__(self, adapt: onnxruntime.InferenceSession, loss: onnxruntime.InferenceSession, start: State) -> None:
        self.states = State(start.tensors, start.device), State(start.tensors, start.device)
        self.before, self.between, self.after = (np.zeros((), np.float32) for _ in range(3))
        self.step = np.zeros(1, np.int64)
        """The index of the step at hand, read by graphs whose rule learned numbers for each step."""
        even, odd = self.states
        self.first = _bind(adapt, start, self.before, even)
        self.steps = _bind(adapt, odd, self.between, even), _bind(adapt, even, self.between, odd)
        self.losses = _bind(loss, even, self.after), _bind(loss, odd, self.after)
        if any(part.name == STEP for part in adapt.get_inputs()):
            step = onnxruntime.OrtValue.ortvalue_from_numpy(self.step)
            for binding in (self.first, *self.steps):
                binding.bind_ortvalue_input(STEP, step)
        self._x: NDArray = np.empty(0)
        self._y: NDArray = np.empty(0)

    def fill(self, x: Array, y: NDArray) -> None:
        """Copy the support set in; a shape other than the last one's gets new memory."""
        if x.shape == self._x.shape and y.shape == self._y.shape:
            self._x[...], self._y[...] = x, y
            return
        self._x, self._y = np.array(x, order="C"), np.array(y, order="C")
        for name, array in (("support_x", self._x), ("support_y", self._y)):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            for binding in (self.first, *self.steps, *self.losses):
                binding.bind_ortvalue_input(name, value)


def _bind(session: onnxruntime.InferenceSession, source: State, loss: NDArray, target: State | None = None) -> Any:
    """A binding that reads `source`, and writes the loss and, of a step, `target`; the support set is bound later."""
    binding = session.io_binding()
    for part in session.get_inputs():
        if part.name in source.values:
            binding.bind_ortvalue_input(part.name, source.values[part.name])
    for name, value in target.values.items() if target else ():
        binding.bind_ortvalue_output(next_name(name), value)
    binding.bind_ortvalue_output("loss", onnxruntime.OrtValue.ortvalue_from_numpy(loss))
    return binding
