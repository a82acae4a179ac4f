"""The filter parameters and their folded weights in one block of memory."""

import ctypes
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from msr_runtime.arrays import FLOAT32
from msr_runtime.inference.device import HOST, Device
from msr_runtime.task import Array

_ALIGNMENT = 16
"""Number of float32 numbers in a cache line of 64 bytes."""


class State:
    """The filter parameters "v" `(1, K)` and the weights folded from them, in one block of memory.

    With one block, a state is copied and checked in one operation. On the CPU, ONNX Runtime's values share the memory
    of the block. On a device they are copies: `send` copies the block to the device, `fetch` copies it back.
    """

    def __init__(self, tensors: Mapping[str, Array], device: Device = HOST) -> None:
        """Make a state with copies of `tensors`.

        Args:
            tensors: The filter parameters "v" and every folded weight, float32, by name.
            device: Where the values of ONNX Runtime are stored.
        """
        self.device = device
        # Each tensor is padded to whole cache lines. Else a tensor's alignment would depend on the sizes of the
        # tensors before it, and two tensors could share a cache line.
        sizes = [-(-tensor.size // _ALIGNMENT) * _ALIGNMENT for tensor in tensors.values()]
        self.block = np.zeros(sum(sizes), FLOAT32)
        """All tensors, flattened and in order, float32. Zeros pad each to a whole number of cache lines."""
        self.tensors: dict[str, Array] = {}
        """Views of the block, by name."""
        begin = 0
        for (name, tensor), size in zip(tensors.items(), sizes, strict=True):
            view = self.block[begin : begin + tensor.size].reshape(tensor.shape)
            view[...] = tensor
            self.tensors[name] = view
            begin += size

    @cached_property
    def values(self) -> dict[str, Any]:
        """Values of ONNX Runtime (OrtValue), by name. Native code, which asks for none, runs without ONNX Runtime."""
        return {name: self.device.place(tensor) for name, tensor in self.tensors.items()}

    @cached_property
    def pointer(self) -> ctypes.c_void_p:
        """Where the block lies, for native code. To ask numpy takes longer than many a call of it."""
        return ctypes.c_void_p(self.block.ctypes.data)

    def another(self) -> "State":
        """Return a state of the same layout, with copies of these tensors."""
        return State(self.tensors, self.device)

    def send(self) -> None:
        """Copy the block to the device. Does nothing where the memory is shared."""
        if self.device.copies:
            for name, value in self.values.items():
                value.update_inplace(self.tensors[name])

    def fetch(self) -> None:
        """Copy the values from the device into the block. Does nothing where the memory is shared."""
        if self.device.copies:
            for name, value in self.values.items():
                self.tensors[name][...] = value.numpy()
