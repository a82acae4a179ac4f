"""A bundle's native code: compiled from its C source, and loaded from bytes that were checked.

The library is loaded from memory of this process, never from a path: between a check of a file and its load, another
program could exchange it. To load a library is to run a program, so load none from a bundle that you do not trust.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.arrays import FLOAT32
from msr_runtime.errors import BundleError, InputError
from msr_runtime.inference.device import HOST
from msr_runtime.inference.state import State
from msr_runtime.task import Array

_OPTIONS = (
    "-std=c99",
    "-Werror=implicit",
    "-O2",
    "-ftree-vectorize",  # before gcc 12, -O2 alone uses no vectors
    "-fvect-cost-model",  # the model `dynamic` of gcc; clang, which has none, refuses the longer name
    "-march=native",
    "-ffp-contract=fast",
    "-shared",
    "-fPIC",
)
_LOADED: dict[str, ctypes.CDLL] = {}
_LOADING = threading.Lock()


class Sizes(NamedTuple):
    """What a library says of itself."""

    version: int
    numbers: int
    """float32 numbers of a network: v and the weights, one after another."""
    workspace: int
    """Bytes of a workspace."""
    inputs: int
    outputs: int
    shots: int
    """The most samples of a support set."""
    filters: int
    slots: int
    """How many rows a filter keeps of its samples. 0 where nothing learns sample by sample."""


def processor() -> str:
    """Return what this machine's native code needs: the machine, and a digest of its processor's features."""
    lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    found = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    features = " ".join(sorted(found.partition(":")[2].split()))
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def library_name() -> str:
    """Return the name of the file in a bundle that holds native code for this processor."""
    return f"native.{processor()}.so"


def find_compiler(name: str) -> str:
    """Return the path of a compiler.

    Raises:
        InputError: If this machine has none of this name.
    """
    found = shutil.which(name)
    if found is None:
        raise InputError(
            f"there is no compiler '{name}' on this machine: install one (Debian: apt install gcc), or name another"
        )
    return found


def compile_source(source: bytes, compiler: str) -> bytes:
    """Compile C source for this processor, and return the shared library. Nothing is downloaded.

    Args:
        source: What `msr_c.write_robot_source` returned.
        compiler: The program that compiles, from `find_compiler`.

    Raises:
        InputError: If it refuses the source.
    """
    import subprocess  # a robot imports neither to load and to run what was compiled
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "native.c", Path(folder) / "native.so"
        given.write_bytes(source)
        command = [compiler, *_OPTIONS, str(given), "-lm", "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"'{compiler}' refuses the source ({done.stderr.strip()[:500]}); try gcc or clang")
        if not made.is_file():
            raise InputError(f"'{compiler}' ended without an error, but wrote no library; try gcc or clang")
        return made.read_bytes()


def _load(data: bytes, where: str) -> ctypes.CDLL:
    """Load a library from memory, once in a process: it keeps nothing between two calls."""
    digest = hashlib.sha256(data).hexdigest()
    with _LOADING:
        if digest not in _LOADED:
            # It stays open: the loader knows libraries by name, and would take the next one of this number for it.
            handle = os.memfd_create("native", os.MFD_CLOEXEC)
            try:
                with os.fdopen(os.dup(handle), "wb") as file:
                    file.write(data)
                _LOADED[digest] = ctypes.CDLL(f"/proc/self/fd/{handle}")
            except OSError as error:
                os.close(handle)
                raise BundleError(
                    f"{where} cannot be loaded ({error}); it was compiled for another system: compile it again here"
                ) from error
        return _LOADED[digest]


class NetworkState(State):
    """As `State`, laid out as the C code reads it: one tensor after another, of weights the first axis last."""

    def __init__(self, tensors: Mapping[str, Array], numbers: int) -> None:
        self.device = HOST
        self.block = np.zeros(numbers, FLOAT32)
        self.tensors, begin = {}, 0
        for name, tensor in tensors.items():
            flat = self.block[begin : begin + tensor.size]
            turned = name != "v" and tensor.ndim > 1
            stored = flat.reshape(*tensor.shape[1:], tensor.shape[0]) if turned else flat.reshape(tensor.shape)
            view = np.moveaxis(stored, -1, 0) if turned else stored
            view[...] = tensor
            self.tensors[name], begin = view, begin + tensor.size

    def another(self) -> "NetworkState":
        """Return a state of the same layout, with copies of these tensors."""
        return NetworkState(self.tensors, self.block.size)


class _Work:
    """The memory of one call, and where it lies."""

    def __init__(self, sizes: Sizes, labels: bool) -> None:
        # Numbers of 8 bytes, because they begin where any type may.
        self._workspace = np.zeros(-(-sizes.workspace // 8), np.float64)
        self.x = np.zeros((sizes.shots, sizes.inputs), FLOAT32)
        self.y = np.zeros(sizes.shots, np.int32) if labels else np.zeros((sizes.shots, sizes.outputs), FLOAT32)
        self.network, self.loss = np.zeros(sizes.numbers, FLOAT32), np.zeros(2, FLOAT32)
        self.workspace = _pointer(self._workspace)
        self.samples = _pointer(self.x), _pointer(self.y)
        self.network_pointer, self.loss_pointer = _pointer(self.network), _pointer(self.loss)
        self._places = [(array.ctypes.data, array.strides[0]) for array in (self.x, self.y)]

    def sample(self, index: int) -> list[ctypes.c_void_p]:
        """Where one sample lies: its x and its y."""
        return [ctypes.c_void_p(begin + index * size) for begin, size in self._places]


class NativeCode:
    """The native code of a bundle. Any thread may call it: each call takes a workspace of its own from a pool.

    Args:
        data: The bytes of the library, checked.
        where: The name of the library in errors.
        labels: Whether y are labels.
        version: The version of the functions that are called.

    Raises:
        BundleError: If this machine does not load it, or it is of another version.
    """

    def __init__(self, data: bytes, where: str, labels: bool, version: int) -> None:
        self._where, self._labels = where, labels
        library = _load(data, where)
        try:
            # Only the first number is sure to be there in every version.
            found = ctypes.c_longlong.in_dll(library, "native_sizes").value
            if found != version:
                raise BundleError(
                    f"{where} has version {found}, but this runtime calls {version}: run `msr compile` again, on a "
                    "machine with onnx (extra `train`)"
                )
            self.sizes = Sizes(*(ctypes.c_longlong * len(Sizes._fields)).in_dll(library, "native_sizes"))
            named = ("update", "deviation") if self.sizes.slots else ("adapt",)
            self._functions = {name: getattr(library, f"native_{name}") for name in ("predict", "loss", *named)}
        except (ValueError, AttributeError) as error:
            raise BundleError(f"{where} is no native code of a bundle ({error}): export again") from error
        for function in self._functions.values():
            function.restype = None
        self._pool: list[_Work] = []

    def bind_predict(self, state: State, x: Array, y: Array) -> Callable[[], object]:
        """As `Network.bind_predict`."""
        return partial(self._functions["predict"], state.pointer, _pointer(x), _pointer(y), ctypes.c_longlong(len(x)))

    def bind_with_rows(
        self, function: str, networks: Sequence[State], given: Sequence[Array], made: Sequence[NDArray]
    ) -> Callable[[State], None]:
        """Return a call of `update` or `deviation`, which takes the memory of a belief's rows.

        Args:
            function: Its name.
            networks: The networks that it reads.
            given: The other arrays that it reads: the rows come before the last of them.
            made: What it writes.
        """
        return _WithRows(self, self._functions[function], networks, given, made)

    def loss(self, network: State, x: Array, y: NDArray) -> float:
        """Return the mean loss of a network on any number of samples that were checked."""
        means = [(self._loss(network, work, work.samples, count), count) for work, count in self._parts(x, y)]
        return means[0][0] if len(means) == 1 else sum(mean * count for mean, count in means) / len(x)

    def losses(self, network: State, x: Array, y: NDArray) -> NDArray[np.float64]:
        """Return the loss of a network on each of any number of samples that were checked, `(samples,)`."""
        parts = self._parts(x, y)
        return np.array([self._loss(network, work, work.sample(i), 1) for work, count in parts for i in range(count)])

    def _parts(self, x: Array, y: NDArray) -> Iterator[tuple[_Work, int]]:
        """Copy samples into memory of this call, as many at once as the code takes. Returns it, and how many they are.

        When the caller asks for the next part, the one before is given back.
        """
        for begin in range(0, len(x), self.sizes.shots):
            part = slice(begin, begin + self.sizes.shots)
            work = self._filled(x[part], y[part])
            yield work, len(x[part])
            self.put_back(work)

    def _loss(self, network: State, work: _Work, samples: Sequence[ctypes.c_void_p], count: int) -> float:
        self._functions["loss"](network.pointer, work.workspace, *samples, count, work.loss_pointer)
        return float(work.loss[0])

    def adapt(
        self, begin: State, into: State, x: Array, y: NDArray, steps: int, check: Callable[[], None] | None = None
    ) -> tuple[float, float]:
        """Take inner steps, and return the losses before and after them.

        Args:
            begin: The network where they begin.
            into: Where the adapted one is written.
            x: `(shots, *x)` in raw units, checked.
            y: `(shots, *y)` in raw units, checked.
            steps: How many.
            check: Called before each step. What it raises ends the adaptation.

        Raises:
            InputError: If there are more samples than the code takes.
        """
        if len(x) > self.sizes.shots:
            raise InputError(
                f"{len(x)} samples were given, but the native code takes at most {self.sizes.shots}: compile it for "
                f"more (`msr compile --shots {len(x)}`), or load the model without engine='native'"
            )
        work = self._filled(x, y)
        adapt, given, ends = self._functions["adapt"], (*work.samples, len(x)), (into.pointer, work.loss_pointer)
        if check is None:
            adapt(begin.pointer, work.workspace, *given, 0, steps, *ends)
            before, after = work.loss.tolist()
        else:
            before = after = 0.0
            for step in range(steps):
                check()
                if step:  # a step must not write over the network that it reads
                    work.network[...] = into.block
                adapt(work.network_pointer if step else begin.pointer, work.workspace, *given, step, 1, *ends)
                found, after = work.loss.tolist()
                before = before if step else found
        self.put_back(work)
        return before, after

    def take(self) -> _Work:
        """Return memory that no other call has, until it is put back."""
        try:
            return self._pool.pop()  # list.pop and list.append are atomic
        except IndexError:
            return _Work(self.sizes, self._labels)

    def put_back(self, work: _Work) -> None:
        """Give memory back."""
        self._pool.append(work)

    def _filled(self, x: Array, y: NDArray) -> _Work:
        """Copy samples into memory that no other call has: another thread may write to x meanwhile."""
        work = self.take()
        count = len(x)
        work.x[:count] = x if x.ndim == 2 else x.reshape(count, -1)
        work.y[:count] = y if y.ndim <= 2 else y.reshape(count, -1)
        return work


class _WithRows:
    """A function of a filter and its arguments, but for the rows of a belief. One thread at a time may call it."""

    def __init__(
        self, code: NativeCode, function: Callable[..., object], networks: Sequence[State], *others: Sequence[NDArray]
    ) -> None:
        (*given, decays), made = others
        self._code, self._function, self._kept = code, function, (networks, others)
        self._before = [each.pointer for each in networks], [*map(_pointer, given)]
        self._after = [*map(_pointer, (decays, *made))]
        self._memory: State | None = None
        self._rows = ctypes.c_void_p()

    def __call__(self, memory: State) -> None:
        if self._memory is not memory:
            self._memory, self._rows = memory, _pointer(memory.tensors["rows"])
        work, (networks, given) = self._code.take(), self._before
        self._function(*networks, work.workspace, *given, self._rows, *self._after)
        self._code.put_back(work)


def _pointer(array: NDArray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
