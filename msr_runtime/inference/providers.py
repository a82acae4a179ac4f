"""Execution providers of ONNX Runtime: which ones start on this machine, and why others do not.

The installed build may contain a provider that cannot start on this machine, for example because a library is missing.
So each requested provider is first tried on a graph with one node.
"""

import contextlib
import functools
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

from msr_runtime.errors import ProviderError
from msr_runtime.inference._onnxruntime import DISTRIBUTION, onnxruntime
from msr_runtime.inference.device import CPU, CUDA, GRAPHS, TENSORRT, Provider, provider_name

# The ONNX model y = Relu(x) for one number, opset 14, IR 7. It is stored as bytes because the robot has no package to
# build a model with.
_ONE_NODE = (
    b'\x08\x07\x12\x00:3\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x0e"
)


def check_providers(providers: Sequence[Provider]) -> None:
    """Check that each provider starts on this machine.

    Args:
        providers: Execution providers, each as a name, or as a name and options.

    Raises:
        ProviderError: If one is not in the installed ONNX Runtime or does not start. The message says why and what to
            install.

    Example:
        >>> from msr_runtime.inference import check_providers
        >>> check_providers(["CPUExecutionProvider"])
        >>> check_providers(["NoSuchExecutionProvider"])
        Traceback (most recent call last):
            ...
        msr_runtime.errors.ProviderError: provider 'NoSuchExecutionProvider' is not in the installed onnxruntime...
    """
    built = onnxruntime.get_available_providers()
    if isinstance(providers, str):
        raise ProviderError(f"providers is '{providers}', but a list is wanted: ['{providers}']")
    if not providers:
        raise ProviderError(f"the list of providers is empty; name at least one of {built}")
    for provider in providers:
        name = provider_name(provider)
        if name not in built:
            raise ProviderError(
                f"provider '{name}' is not in the installed {installed()}, which has {built}; {_advice(name)}"
            )
        if name != CPU and (reason := why_inactive(provider)):
            raise ProviderError(
                f"provider '{name}' was asked for but does not start here ({reason}), and {CPU} would run instead; "
                f"{_advice(name)}"
            )


def why_inactive(provider: Provider) -> str | None:
    """Try a provider of the installed build on a graph with one node.

    Returns:
        None if the provider starts. Otherwise the reason why it does not, for example a missing library.
    """
    name, options = (provider, {}) if isinstance(provider, str) else provider
    return _try(name, tuple((key, str(value)) for key, value in options.items() if key != GRAPHS))


@functools.cache
def _try(name: str, options: tuple[tuple[str, str], ...]) -> str | None:
    said = preload_cuda() if name in (CUDA, TENSORRT) else ""
    with _captured_stderr() as log:
        try:
            # With its own fallback, ONNX Runtime would print to stdout and continue on the CPU.
            session = onnxruntime.InferenceSession(_ONE_NODE, providers=[(name, dict(options))], enable_fallback=0)
            active, error = session.get_providers(), ""
        except Exception as refused:  # noqa: BLE001  ONNX Runtime raises a separate class for each status code
            active, error = [], str(refused)
    if name in active:
        return None
    # The log comes first, because it names the missing library. The exception often does not.
    told = f"{log.getvalue()}\n{error}\n{said}"
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    missing = re.search(r"with error: (.+)", told)
    return missing[1].strip() if missing else " ".join((lines or ["no reason given"])[0].split())


@functools.cache
def preload_cuda() -> str:
    """Load the libraries of CUDA and cuDNN from their pip packages. Call it before the first session on a GPU.

    The result is cached, so the libraries are loaded once. A library without a pip package may still be found on the
    system's library path.

    Returns:
        The text that ONNX Runtime printed meanwhile. It is not printed.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        onnxruntime.preload_dlls()
    return said.getvalue()


def installed() -> str:
    """Return the installed distribution of ONNX Runtime and its version."""
    return f"{DISTRIBUTION or 'onnxruntime (a custom build)'} {onnxruntime.__version__}"


def _advice(name: str) -> str:
    """Return what to install for the provider `name`."""
    if name not in (CUDA, TENSORRT):
        return "install a build of onnxruntime that has it, and the libraries that it needs"
    if DISTRIBUTION == "onnxruntime":
        return 'it is in the distribution for GPUs: pip uninstall onnxruntime, then pip install "msr-runtime[gpu]"'
    version = getattr(onnxruntime, "cuda_version", "") or "the version of that build"
    needs = f'it needs an NVIDIA driver, and CUDA {version} and cuDNN 9, which pip install "msr-runtime[gpu]" brings'
    return needs if name == CUDA else f"{needs}; and TensorRT's libnvinfer on LD_LIBRARY_PATH, which pip does not bring"


@contextlib.contextmanager
def _captured_stderr() -> Iterator[io.StringIO]:
    """Capture what C++ code writes to the stderr of the process, without color codes.

    ONNX Runtime names a missing library there, and not in its exception.
    """
    text = io.StringIO()
    # Python's sys.stderr is not enough: C++ writes to file descriptor 2 directly, so the descriptor itself is replaced.
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
    """Open a temporary file without a name. On Linux it is in memory: the disk of a robot may be read-only."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    return cast(BinaryIO, tempfile.TemporaryFile())
