"""A graph of a bundle as the translator works on it: few kinds of operations, shapes in n, known constants."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msr_c.graphs.dims import Dim, Dims, size


@dataclass
class Tensor:
    """An array of a graph."""

    name: str
    dtype: str
    """The C type of its numbers: `float`, `double` or `int`."""
    shape: Dims
    value: NDArray | None = None
    """Its numbers, if they are constants. Of dtype object: sizes (`Dim`), known for each n."""

    @property
    def size(self) -> Dim:
        """How many numbers it has."""
        return size(self.shape)

    @property
    def constant(self) -> NDArray | None:
        """Its numbers, if no n changes them."""
        return None if self.value is None or self.value.dtype == object else self.value


@dataclass
class Op:
    """One operation.

    Kinds: `elementwise`; `strided`, which copies an input by offset and strides; `view`, the same numbers in another
    shape; `matmul`; `reduce`; `concat`; `pad`; `range`; and those that `rewriting` makes.
    """

    kind: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """The only output."""
        (name,) = self.outputs
        return name


class Graph:
    """Operations in the order in which they run, and their tensors."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[Op] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self._made = 0

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def add(self, name: str, dtype: str, shape: tuple[Dim | int, ...], value: NDArray | None = None) -> Tensor:
        """Add a tensor."""
        tensor = Tensor(name, dtype, tuple(map(Dim.of, shape)), value)
        self.tensors[name] = tensor
        return tensor

    def new(self, like: str, shape: tuple[Dim | int, ...], dtype: str = "float") -> str:
        """Add a tensor with a name of its own, and return the name."""
        self._made += 1
        return self.add(f"{like}~{self._made}", dtype, shape).name

    def constant(self, like: str, value: NDArray) -> str:
        """Add a constant with a name of its own, and return the name."""
        name = self.new(like, value.shape, _C_TYPES.get(value.dtype.kind + str(value.dtype.itemsize), "int"))
        self[name].value = value
        return name

    def producer(self, name: str) -> Op | None:
        """The operation that makes a tensor. None for inputs and constants."""
        return next((op for op in self.ops if name in op.outputs), None)

    def readers(self, name: str) -> list[Op]:
        """The operations that read a tensor."""
        return [op for op in self.ops if name in op.inputs]

    def alone(self, name: str) -> bool:
        """Whether one operation reads a tensor, and nobody outside."""
        return name not in self.outputs and len(self.readers(name)) == 1

    def replace(self, old: str, new: str) -> None:
        """Let all operations read another tensor."""
        for op in self.ops:
            op.inputs = [new if name == old else name for name in op.inputs]

    def needed(self) -> Iterator[Op]:
        """Yield the operations that the outputs need: those of the last output first, each as late as it can be."""
        made = {name: op for op in self.ops for name in op.outputs}
        seen: set[int] = set()
        stack: list[tuple[Op, bool]] = [(made[name], False) for name in self.outputs if name in made]
        while stack:
            op, ready = stack.pop()
            if ready:
                yield op
            elif id(op) not in seen:
                seen.add(id(op))
                stack.append((op, True))
                stack += [(made[name], False) for name in reversed(op.inputs) if name in made]

    def tidy(self) -> None:
        """Drop what the outputs do not need, and sort."""
        self.ops = list(self.needed())


Attributes = dict[str, Any]
"""The attributes of an ONNX node."""
_C_TYPES = {"f4": "float", "f8": "double"}


def c_type(dtype: Any) -> str:
    """Return the C type for a numpy dtype. Integers and truth values are `int`."""
    dtype = np.dtype(dtype)
    return _C_TYPES.get(f"{dtype.kind}{dtype.itemsize}", "int")
