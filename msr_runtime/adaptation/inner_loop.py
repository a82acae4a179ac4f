"""The inner loop on the robot: run the inner step of adapt.onnx several times, then the loss of loss.onnx once.

Where adapt.onnx itself gives the loss after its step, loss.onnx does not run. Where a bundle has graphs for many
samples, they take the steps of adapt.onnx when they are cheaper.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.backend import Adaptation
from msr_runtime.adaptation.support_loss import SupportLoss
from msr_runtime.bundle.manifest import LOSS_AFTER, STEP, next_name
from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.many_samples import ManySamples
from msr_runtime.inference.state import State
from msr_runtime.task import Array


class InnerLoop:
    """Runs the graphs of an inner step and loss.onnx, from the start state or from another one.

    Safe to call from several threads: each call takes its own buffers from a pool and puts them back at the end.
    """

    def __init__(
        self,
        adapt: onnxruntime.InferenceSession,
        loss: onnxruntime.InferenceSession,
        start: State,
        many: ManySamples | None = None,
    ) -> None:
        self._adapt, self._loss, self._start, self._many = adapt, loss, start, many
        self._gives_after = any(part.name == LOSS_AFTER for part in adapt.get_outputs())
        self._pool: list[_Buffers] = []
        self.losses = SupportLoss(loss, start.tensors)
        """The loss of any weights on any samples."""

    def __call__(
        self,
        x: Array,
        y: NDArray,
        steps: int,
        into: State,
        begin: State | None = None,
        check: Callable[[], None] | None = None,
    ) -> Adaptation:
        """Adapt to one support set.

        Args:
            x: `(shots, *x)` in raw units, already checked.
            y: `(shots, *y)` in raw units, already checked; labels for a classifier.
            steps: Number of inner steps, 1 or more.
            into: Where the adapted v and its folded weights are written. After an error it holds anything.
            begin: The network to begin at, copied before the first step. None begins at the start.
            check: Called before each step, and between parts of many samples. What it raises ends the adaptation.
        """
        K = self._start.tensors["v"].size
        if self._many and self._many.suits(len(x), K):
            v = (begin or self._start).tensors["v"].copy()
            before, tensors = self._many(x, y, steps, v, check)
            for name, tensor in tensors.items():
                into.tensors[name][...] = tensor
            return Adaptation(before, self.losses.mean(x, y, into))
        if check:
            check()
        try:
            # list.pop and list.append are atomic, so two threads never get the same buffers
            buffers = self._pool.pop()
        except IndexError:
            buffers = _Buffers(self._adapt, self._loss, self._start)
        buffers.fill(x, y)
        buffers.step[0] = 0
        if begin is None:
            self._adapt.run_with_iobinding(buffers.first)
        else:
            buffers.states[1].block[...] = begin.block
            buffers.states[1].send()
            self._adapt.run_with_iobinding(buffers.steps[0])
        before = float(buffers.before if begin is None else buffers.between)  # read now: `between` is overwritten
        # The states take turns: even steps read state 1 and write state 0, odd steps read state 0 and write state 1.
        for step in range(1, steps):
            if check:
                check()
            buffers.step[0] = step
            self._adapt.run_with_iobinding(buffers.steps[step % 2])
        end = (steps - 1) % 2
        if not self._gives_after:
            self._loss.run_with_iobinding(buffers.losses[end])
        buffers.states[end].fetch()
        into.block[...] = buffers.states[end].block
        result = Adaptation(before, float(buffers.after))
        # Buffers are not put back after an error: they may be bound to the x of one support set and the y of another.
        self._pool.append(buffers)
        return result


class _Buffers:
    """The memory of one adaptation, and the bindings of its runs to this memory.

    There are two states, because a step must not overwrite the state that it reads. On the CPU the values of ONNX
    Runtime share the memory of the numpy arrays, so nothing is allocated, copied or converted between two steps.
    """

    def __init__(self, adapt: onnxruntime.InferenceSession, loss: onnxruntime.InferenceSession, start: State) -> None:
        self.states = State(start.tensors, start.device), State(start.tensors, start.device)
        self.before, self.between, self.after = (np.zeros((), np.float32) for _ in range(3))
        self.step = np.zeros(1, np.int64)
        """Index of the current step; read by graphs whose rule learned different rates for each step."""
        even, odd = self.states  # named by the steps that write them
        self.first = _bind(adapt, start, self.before, even)
        self.steps = _bind(adapt, odd, self.between, even), _bind(adapt, even, self.between, odd)
        self.losses = _bind(loss, even, self.after), _bind(loss, odd, self.after)
        if any(part.name == STEP for part in adapt.get_inputs()):
            step = onnxruntime.OrtValue.ortvalue_from_numpy(self.step)
            for binding in (self.first, *self.steps):
                binding.bind_ortvalue_input(STEP, step)
        if any(part.name == LOSS_AFTER for part in adapt.get_outputs()):
            after = onnxruntime.OrtValue.ortvalue_from_numpy(self.after)
            for binding in (self.first, *self.steps):
                binding.bind_ortvalue_output(LOSS_AFTER, after)
        self._x: NDArray = np.empty(0)
        self._y: NDArray = np.empty(0)

    def fill(self, x: Array, y: NDArray) -> None:
        """Copy the support set into the bound memory; another shape than the last one gets new memory and bindings."""
        if x.shape == self._x.shape and y.shape == self._y.shape:
            self._x[...], self._y[...] = x, y
            return
        # C order, because ONNX Runtime reads the memory without numpy's strides
        self._x, self._y = np.array(x, order="C"), np.array(y, order="C")
        for name, array in (("support_x", self._x), ("support_y", self._y)):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            for binding in (self.first, *self.steps, *self.losses):
                binding.bind_ortvalue_input(name, value)


def _bind(session: onnxruntime.InferenceSession, source: State, loss: NDArray, target: State | None = None) -> Any:
    """A binding that reads the state `source`, and writes the loss and, for adapt.onnx, the state `target`.

    `fill` binds the support set later.
    """
    binding = session.io_binding()
    for part in session.get_inputs():
        if part.name in source.values:
            binding.bind_ortvalue_input(part.name, source.values[part.name])
    for name, value in target.values.items() if target else ():
        binding.bind_ortvalue_output(next_name(name), value)
    binding.bind_ortvalue_output("loss", onnxruntime.OrtValue.ortvalue_from_numpy(loss))
    return binding
