"""Load a bundle, adapt it in a few gradient steps and act, with ONNX Runtime and numpy alone."""

from msr_runtime.bundle import Bundle, Manifest
from msr_runtime.task import Field

__all__ = ["Bundle", "Field", "Manifest"]
