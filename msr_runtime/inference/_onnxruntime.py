"""Import ONNX Runtime, with telemetry off. All other modules import it from here.

The import fails if both distributions, for CPU and for GPU, are installed.
"""

import os
from importlib import metadata


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)  # unlike `version`, it does not parse what pip keeps of it
    except metadata.PackageNotFoundError:
        return False
    return True


_installed_here = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
if len(_installed_here) > 1:
    raise ImportError(
        "onnxruntime and onnxruntime-gpu are both installed, but they write into the same folder and overwrite each "
        "other: uninstall both, then install one: pip uninstall onnxruntime onnxruntime-gpu; "
        'pip install "msr-runtime[cpu]"'
    )
DISTRIBUTION: str | None = _installed_here[0] if _installed_here else None
"""The installed distribution; None for a custom build, which pip does not know by either name."""
# ONNX Runtime reads the variable when it is imported. From 1.29 on, telemetry writes files into the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
try:
    import onnxruntime
except ImportError as error:
    raise ImportError(
        f'onnxruntime cannot be imported ({error}): pip install "msr-runtime[cpu]", or "msr-runtime[gpu]" for CUDA'
    ) from error
# Of two builds in one folder, uninstalling one deletes files of the other. What is left is a package without content.
if not hasattr(onnxruntime, "InferenceSession"):
    raise ImportError(
        "onnxruntime is installed, but parts of it are missing: probably onnxruntime and onnxruntime-gpu were both "
        "installed, and uninstalling one deleted files of the other. Uninstall both, then install one: "
        'pip uninstall onnxruntime onnxruntime-gpu; pip install "msr-runtime[cpu]"'
    )

__all__ = ["DISTRIBUTION", "onnxruntime"]
