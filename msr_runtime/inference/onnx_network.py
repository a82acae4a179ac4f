"""predict.onnx, bound to fixed memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.state import State
from msr_runtime.task import Array


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


def _run_on_device(run: Callable[[], object], x: Array, y: Array, x_value: Any, y_value: Any) -> None:
    """Copy the input to the device, run the graph and copy the output back."""
    x_value.update_inplace(x)
    run()
    y[...] = y_value.numpy()
