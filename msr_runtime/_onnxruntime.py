"""The one place that imports ONNX Runtime, with its telemetry off and one distribution of it at a time."""

import os
from importlib import metadata


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


_installed_here = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
if len(_installed_here) > 1:
    raise ImportError(
        "onnxruntime and onnxruntime-gpu are both installed, but they own the same folder and overwrite each other: "
        'uninstall both, then install one: pip uninstall onnxruntime onnxruntime-gpu; pip install "msr-runtime[cpu]"'
    )
DISTRIBUTION: str | None = _installed_here[0] if _installed_here else None
"""The installed distribution; None for a build that pip does not know by either name."""
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import: from 1.29 on it would write to the home folder
try:
    import onnxruntime
except ImportError as error:
    raise ImportError(
        f'onnxruntime cannot be imported ({error}): pip install "msr-runtime[cpu]", or "msr-runtime[gpu]" for CUDA'
    ) from error

__all__ = ["DISTRIBUTION", "onnxruntime"]
