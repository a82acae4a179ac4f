"""Execution providers: which of them start on this machine, why the others do not, and where their tensors lie.

What the installed ONNX Runtime was built with says nothing about the machine: each provider that is asked for is tried
on a graph of one node before it is handed a model.
"""

import contextlib
import functools
import io
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, cast

from numpy.typing import NDArray

from msr_runtime._onnxruntime import DISTRIBUTION, onnxruntime
from msr_runtime.errors import ProviderError

Provider = str | tuple[str, dict[str, Any]]
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_GRAPHS = "enable_cuda_graph"
_ONE_NODE = (  # y = Relu(x), one number: opset 14, IR 7
    b'\x08\x07\x12\x00:3\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x0e"
)
_graph_ids = itertools.count(1)


def check_providers(providers: Sequence[Provider]) -> None:
    """Raise ProviderError unless each of `providers` starts on this machine."""
    built = onnxruntime.get_available_providers()
    if isinstance(providers, str):
        raise ProviderError(f"providers is '{providers}', but a list is wanted: ['{providers}']")
    if not providers:
        raise ProviderError(f"no execution provider was asked for; name at least one of {built}")
    for provider in providers:
        name = provider_name(provider)
        if name not in built:
            raise ProviderError(
                f"provider '{name}' is not in the installed {installed()}, which has {built}; {_advice(name)}"
            )
        if name != CPU and (reason := why_inactive(provider)):
            raise ProviderError(
                f"provider '{name}' was asked for but does not start here ({reason}), and {CPU} would act instead; "
                f"{_advice(name)}"
            )


def why_inactive(provider: Provider) -> str | None:
    """Try a provider of the installed build on a graph of one node; None if it runs it, else what stands against it."""
    name, options = (provider, {}) if isinstance(provider, str) else provider
    return _try(name, tuple((key, str(value)) for key, value in options.items() if key != _GRAPHS))


@functools.cache
def _try(name: str, options: tuple[tuple[str, str], ...]) -> str | None:
    said = preload_cuda() if name in (CUDA, TENSORRT) else ""
    with _captured_stderr() as log:
        try:
            # without its own fallback, which prints on stdout and goes on with the CPU
            session = onnxruntime.InferenceSession(_ONE_NODE, providers=[(name, dict(options))], enable_fallback=0)
            active, error = session.get_providers(), ""
        except Exception as refused:  # noqa: BLE001  its bindings raise a class of their own for each status code
            active, error = [], str(refused)
    if name in active:
        return None
    told = f"{log.getvalue()}\n{error}\n{said}"
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    missing = re.search(r"with error: (.+)", told)
    return missing[1].strip() if missing else " ".join((lines or ["it says nothing"])[0].split())


@functools.cache
def preload_cuda() -> str:
    """Load CUDA's and cuDNN's libraries from their pip packages, once, before the first session that needs them.

    Returns:
        What it said, which goes nowhere else; the libraries that it does not find may still be on the system's path.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        onnxruntime.preload_dlls()
    return said.getvalue()


def provider_name(provider: Provider) -> str:
    """The name of a provider that is given by name, or by name and options."""
    return provider if isinstance(provider, str) else provider[0]


def installed() -> str:
    """The installed distribution of ONNX Runtime and its version."""
    return f"{DISTRIBUTION or 'onnxruntime (a build of its own)'} {onnxruntime.__version__}"


def _advice(name: str) -> str:
    if name not in (CUDA, TENSORRT):
        return "install the build of onnxruntime that has it, and what it needs"
    if DISTRIBUTION == "onnxruntime":
        return 'it is in the other distribution: pip uninstall onnxruntime, then pip install "msr-runtime[gpu]"'
    version = getattr(onnxruntime, "cuda_version", "") or "the version of that build"
    needs = f'it needs an NVIDIA driver, and CUDA {version} and cuDNN 9, which pip install "msr-runtime[gpu]" brings'
    return needs if name == CUDA else f"{needs}; and libnvinfer of TensorRT on LD_LIBRARY_PATH, which it does not"


@contextlib.contextmanager
def _captured_stderr() -> Iterator[io.StringIO]:
    """Gather what C++ writes to the process's stderr: it names the library that is missing, the exception does not."""
    text = io.StringIO()
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with _anonymous_file() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield text
            finally:
                os.dup2(kept, 2)
                file.seek(0)
                text.write(re.sub(r"\x1b\[[0-9;]*m", "", file.read().decode(errors="replace")))
    finally:
        os.close(kept)


def _anonymous_file() -> BinaryIO:
    """A file without a name, on Linux in memory: a robot's root may be read-only, without a folder for such files."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    return cast(BinaryIO, tempfile.TemporaryFile())


class Device(NamedTuple):
    """Where a session's tensors lie."""

    kind: str = "cpu"
    index: int = 0
    copies: bool = False
    """Whether ONNX Runtime's values have memory of their own; if not, they share numpy's."""
    graphs: bool = False
    """Whether runs are captured as CUDA graphs, for one shape and fixed memory each."""

    def place(self, array: NDArray) -> Any:
        """An OrtValue with the numbers of `array`: its own memory, or a copy on the device."""
        if not self.copies:
            return onnxruntime.OrtValue.ortvalue_from_numpy(array)
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type, self.kind, self.index)
        value.update_inplace(array)
        return value

    def run_options(self) -> Any:
        """What a binding is run with: a CUDA graph is its binding's own, because it replays with that one's memory."""
        if not self.graphs:
            return None
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(next(_graph_ids)))
        return options


HOST = Device()


def device_of(providers: Sequence[Provider]) -> Device:
    """Where tensors are best kept for the first of `providers`: on its GPU, or shared with numpy.

    `("CUDAExecutionProvider", {"enable_cuda_graph": "1"})` has predictions captured as CUDA graphs, one for each batch
    size: less to launch, but every node has to run on the GPU.
    """
    name, options = (providers[0], {}) if isinstance(providers[0], str) else providers[0]
    if name not in (CUDA, TENSORRT):
        return HOST
    graphs = name == CUDA and str(options.get(_GRAPHS, "0")).lower() in ("1", "true")
    return Device("cuda", int(options.get("device_id", 0)), copies=True, graphs=graphs)


def in_float32(providers: Sequence[Provider]) -> list[Provider]:
    """`providers` with CUDA's products in float32, unless its options say otherwise.

    Its own default, TF32, keeps 10 bits of a mantissa: a thousandth off, and no golden example would come out.
    """
    pairs = [(provider, {}) if isinstance(provider, str) else provider for provider in providers]
    return [(name, {"use_tf32": "0", **options}) if name == CUDA else (name, options) for name, options in pairs]


def without_graphs(providers: Sequence[Provider]) -> list[Provider]:
    """`providers` without CUDA graphs, for graphs whose shapes change from call to call, such as the inner loop's."""
    return [
        provider if isinstance(provider, str) else (provider[0], {k: v for k, v in provider[1].items() if k != _GRAPHS})
        for provider in providers
    ]
