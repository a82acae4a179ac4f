"""Execution providers of ONNX Runtime by name, and where their tensors are kept.

Native code keeps its tensors in the same memory, and runs where ONNX Runtime is not installed. So ONNX Runtime is
imported only where one of its values is made.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

Provider = str | tuple[str, dict[str, Any]]
"""An execution provider of ONNX Runtime: its name, or its name and options.

For example `"CPUExecutionProvider"` or `("CUDAExecutionProvider", {"device_id": 1})`."""
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
GRAPHS = "enable_cuda_graph"
"""The option of CUDA that captures runs as CUDA graphs."""
_graph_ids = itertools.count(1)


def provider_name(provider: Provider) -> str:
    """Return the name of a provider that is given as a name, or as a name and options."""
    return provider if isinstance(provider, str) else provider[0]


class Device(NamedTuple):
    """Where the tensors of a session are stored."""

    kind: str = "cpu"
    """`cpu` or `cuda`."""
    index: int = 0
    """The number of the GPU."""
    copies: bool = False
    """Whether ONNX Runtime's values have their own memory. If not, they share the memory of numpy arrays."""
    graphs: bool = False
    """Whether runs are captured as CUDA graphs. One graph belongs to one shape and fixed memory."""

    def place(self, array: NDArray) -> Any:
        """Return an OrtValue with the numbers of `array`. It shares the array's memory, or is a copy on the device."""
        from msr_runtime.inference._onnxruntime import onnxruntime

        if not self.copies:
            return onnxruntime.OrtValue.ortvalue_from_numpy(array)
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type, self.kind, self.index)
        value.update_inplace(array)
        return value

    def run_options(self) -> Any:
        """Return the run options for one binding. Each binding gets a CUDA graph of its own.

        A CUDA graph replays with the memory of the binding that it was captured with, so two bindings cannot share one.
        """
        if not self.graphs:
            return None
        from msr_runtime.inference._onnxruntime import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(next(_graph_ids)))
        return options


HOST = Device()
"""The memory of the CPU, shared with numpy."""


def device_of(providers: Sequence[Provider]) -> Device:
    """Return where to store tensors for the first of `providers`: on its GPU, or in memory shared with numpy.

    With `("CUDAExecutionProvider", {"enable_cuda_graph": "1"})`, predictions are captured as CUDA graphs, one per batch
    size. This needs fewer kernel launches, but every node must run on the GPU.
    """
    name, options = (providers[0], {}) if isinstance(providers[0], str) else providers[0]
    if name not in (CUDA, TENSORRT):
        return HOST
    graphs = name == CUDA and str(options.get(GRAPHS, "0")).lower() in ("1", "true")
    return Device("cuda", int(options.get("device_id", 0)), copies=True, graphs=graphs)


def in_float32(providers: Sequence[Provider]) -> list[Provider]:
    """Return `providers` with CUDA's matrix products in float32, unless the options set `use_tf32`.

    CUDA's default, TF32, keeps 10 bits of the mantissa. Its relative error is about 1e-3, so the self-test with the
    golden example would fail.
    """
    pairs = [(provider, {}) if isinstance(provider, str) else provider for provider in providers]
    return [(name, {"use_tf32": "0", **options}) if name == CUDA else (name, options) for name, options in pairs]


def without_graphs(providers: Sequence[Provider]) -> list[Provider]:
    """Return `providers` without CUDA graphs, for models whose shapes change between calls, such as the inner loop."""
    return [
        provider if isinstance(provider, str) else (provider[0], {k: v for k, v in provider[1].items() if k != GRAPHS})
        for provider in providers
    ]
