"""Graphs of ONNX Runtime, bound to fixed memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.state import State
from msr_runtime.inference.updater import NEXT
from msr_runtime.relinearization import LINEARIZED
from msr_runtime.task import Array, Shape


class OnnxNetwork:
    """The `Network` of a session of predict.onnx."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def bind_predict(self, state: State, x: Array, y: Array) -> Callable[[], object]:
        """As `Network.bind_predict`."""
        binding, device = self._session.io_binding(), state.device
        # On the CPU, the values share the memory of the arrays, so a run reads x and writes y and copies nothing.
        # The caller keeps the arrays and the binding keeps the values, so this memory stays valid.
        values = device.place(x), device.place(y)
        binding.bind_ortvalue_input("x", values[0])
        for name, value in state.values.items():
            if name != "v":  # predict.onnx reads the folded weights only
                binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("y", values[1])
        run = partial(self._session.run_with_iobinding, binding, device.run_options())
        return partial(_run_on_device, run, x, y, *values) if device.copies else run


class OnnxUpdate:
    """The `UpdateGraph` of a session of update.onnx, on the CPU."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        parts = (*session.get_inputs(), *session.get_outputs())
        self.shapes: dict[str, Shape] = {part.name: tuple(part.shape) for part in parts}

    def bind(self, source: State, target: State, linearized: State, arrays: State) -> Callable[[State], None]:
        """As `UpdateGraph.bind`."""
        v = {"v": source.values["v"], LINEARIZED: linearized.values["v"]}
        made = {NEXT.format(name): value for name, value in target.values.items()} | arrays.values
        return _WithRows(self._session, linearized.values | v | arrays.values, made)


class OnnxDeviation:
    """The `DeviationGraph` of a session of deviation.onnx, on the CPU."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        (self.slots,) = next(part.shape for part in session.get_inputs() if part.name == "decays")

    def bind(self, network: State, arrays: State) -> Callable[[State], None]:
        """As `DeviationGraph.bind`."""
        return _WithRows(self._session, network.values | arrays.values, arrays.values)


class _WithRows:
    """A graph, bound to values by name but for the rows of a belief. One thread at a time may call it."""

    def __init__(self, session: onnxruntime.InferenceSession, given: dict[str, Any], made: dict[str, Any]) -> None:
        self._session, self._binding = session, session.io_binding()
        for part in session.get_inputs():
            if part.name != "rows":
                self._binding.bind_ortvalue_input(part.name, given[part.name])
        for part in session.get_outputs():
            self._binding.bind_ortvalue_output(part.name, made[part.name])
        self._memory: State | None = None

    def __call__(self, memory: State) -> None:
        if self._memory is not memory:
            self._memory = memory
            self._binding.bind_ortvalue_input("rows", memory.values["rows"])
        self._session.run_with_iobinding(self._binding)


def _run_on_device(run: Callable[[], object], x: Array, y: Array, x_value: Any, y_value: Any) -> None:
    """Copy the input to the device, run the graph and copy the output back."""
    x_value.update_inplace(x)
    run()
    y[...] = y_value.numpy()
