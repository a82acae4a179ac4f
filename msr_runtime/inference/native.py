"""A bundle's native code: compiled from its C source, and loaded from bytes that were checked.

The library is loaded from memory of this process, never from a path: between a check of a file and its load, another
program could exchange it. To load a library is to run a program, so load none from a bundle that you do not trust.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.arrays import FLOAT32
from msr_runtime.errors import BundleError, InputError
from msr_runtime.inference.providers import HOST
from msr_runtime.inference.state import State
from msr_runtime.task import Array

INTERFACE = 1
"""The version of the functions that are called."""
_OPTIONS = (
    "-std=c99",
    "-Werror=implicit",
    "-O2",
    "-fvect-cost-model=dynamic",
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


def processor() -> str:
    """Return what this machine's native code needs: the machine, and a digest of its processor's features."""
    lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    found = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    features = " ".join(sorted(found.partition(":")[2].split()))
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def library_name() -> str:
    """Return the name of the file in a bundle that holds native code for this processor."""
    return f"native.{processor()}.so"


def check_compiler(compiler: str) -> None:
    """Check that this machine has a compiler.

    Raises:
        InputError: If it has not.
    """
    if shutil.which(compiler) is None:
        raise InputError(
            f"there is no compiler '{compiler}' on this machine: install one (Debian: apt install gcc), or name another"
        )


def compile_source(source: bytes, compiler: str = "cc") -> bytes:
    """Compile C source for this processor, and return the shared library.

    Args:
        source: What `msr_c.write_robot_source` returned.
        compiler: The program that compiles. Nothing is downloaded.

    Raises:
        InputError: If there is no such program, or it refuses the source.
    """
    check_compiler(compiler)
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "native.c", Path(folder) / "native.so"
        given.write_bytes(source)
        command = [compiler, *_OPTIONS, str(given), "-lm", "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"'{compiler}' refuses the source ({done.stderr.strip()[:500]}); try gcc or clang")
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
    """As `State`, laid out as the C code reads it: one tensor after another, matrices transposed."""

    def __init__(self, tensors: Mapping[str, Array], numbers: int) -> None:
        self.device, self.values = HOST, {}
        self.block = np.zeros(numbers, FLOAT32)
        self.tensors, begin = {}, 0
        for name, tensor in tensors.items():
            flat = self.block[begin : begin + tensor.size]
            turned = name != "v" and tensor.ndim == 2
            view = flat.reshape(tensor.shape[::-1]).T if turned else flat.reshape(tensor.shape)
            view[...] = tensor
            self.tensors[name], begin = view, begin + tensor.size

    def another(self) -> "NetworkState":
        """Return a state of the same layout, with copies of these tensors."""
        return NetworkState(self.tensors, self.block.size)


class _Work(NamedTuple):
    """The memory of one call."""

    workspace: NDArray
    x: Array
    y: NDArray
    network: Array
    loss: Array


class NativeCode:
    """The native code of a bundle. Any thread may call it: each call takes a workspace of its own from a pool.

    Args:
        data: The bytes of the library, checked.
        where: The name of the library in errors.
        labels: Whether y are labels.

    Raises:
        BundleError: If this machine does not load it, or it is of another version.
    """

    def __init__(self, data: bytes, where: str, labels: bool) -> None:
        self._where, self._labels = where, labels
        library = _load(data, where)
        try:
            self.sizes = Sizes(*(ctypes.c_longlong * len(Sizes._fields)).in_dll(library, "native_sizes"))
            self._predict, self._loss, self._adapt = (
                getattr(library, f"native_{each}") for each in ("predict", "loss", "adapt")
            )
        except (ValueError, AttributeError) as error:
            raise BundleError(f"{where} is no native code of a bundle ({error}): export again") from error
        if self.sizes.version != INTERFACE:
            raise BundleError(
                f"{where} has version {self.sizes.version}, but this runtime calls {INTERFACE}: export again, "
                "then run `msr compile`"
            )
        for function in (self._predict, self._loss, self._adapt):
            function.restype = None
        self._pool: list[_Work] = []

    def bind_predict(self, state: State, x: Array, y: Array) -> Callable[[], object]:
        """As `Network.bind_predict`."""
        return partial(self._predict, *map(_pointer, (state.block, x, y)), ctypes.c_longlong(len(x)))

    def loss(self, block: Array, x: Array, y: NDArray) -> float:
        """Return the mean loss of a network, as the block of a state, on samples that were checked."""
        work = self._take(x, y)
        self._loss(
            _pointer(block),
            *map(_pointer, (work.workspace, work.x, work.y)),
            len(x),
            _pointer(work.loss),
        )
        found = float(work.loss[0])
        self._pool.append(work)
        return found

    def adapt(self, block: Array, x: Array, y: NDArray, first: int, steps: int) -> tuple[float, Array]:
        """Take inner steps from a network, and return the loss before them and the block where they ended."""
        work = self._take(x, y)
        self._adapt(
            _pointer(block),
            *map(_pointer, (work.workspace, work.x, work.y)),
            len(x),
            first,
            steps,
            _pointer(work.network),
            _pointer(work.loss),
        )
        found = float(work.loss[0]), work.network.copy()
        self._pool.append(work)
        return found

    def _take(self, x: Array, y: NDArray) -> _Work:
        """Copy samples into a workspace that no other call has: another thread may write to x meanwhile."""
        if len(x) > self.sizes.shots:
            raise InputError(
                f"{len(x)} samples were given, but the native code takes at most {self.sizes.shots}: compile it for "
                "more, or load the model without engine='native'"
            )
        try:
            work = self._pool.pop()  # list.pop and list.append are atomic
        except IndexError:
            sizes = self.sizes
            # Numbers of 8 bytes, because they begin where any type may.
            work = _Work(
                np.zeros(-(-sizes.workspace // 8), np.float64),
                np.zeros((sizes.shots, sizes.inputs), FLOAT32),
                np.zeros(sizes.shots, np.int32) if self._labels else np.zeros((sizes.shots, sizes.outputs), FLOAT32),
                np.zeros(sizes.numbers, FLOAT32),
                np.zeros(1, FLOAT32),
            )
        work.x[: len(x)] = x.reshape(len(x), -1)
        work.y[: len(x)] = y if self._labels else y.reshape(len(x), -1)
        return work


def _pointer(array: NDArray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
