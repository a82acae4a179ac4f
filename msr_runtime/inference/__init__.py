"""ONNX Runtime for a control loop: checked providers, sessions with one thread, and buffers that are reused.

This package runs graphs. It does not know bundles or adaptation. Each name is imported at its first use: native code,
which this package loads too, runs without ONNX Runtime.
"""

from typing import TYPE_CHECKING

from msr_runtime.lazy import at_first_use

if TYPE_CHECKING:
    from msr_runtime.inference.deviation import Prediction
    from msr_runtime.inference.device import Provider
    from msr_runtime.inference.onnx_network import OnnxNetwork
    from msr_runtime.inference.policy_file import PolicyFile
    from msr_runtime.inference.predictor import BoundPredictor, Network, Predictors
    from msr_runtime.inference.providers import check_providers, why_inactive
    from msr_runtime.inference.sample_spec import SampleSpec
    from msr_runtime.inference.session import make_session
    from msr_runtime.inference.state import State

_BY_FILE = {
    "msr_runtime.inference.deviation": ("Prediction",),
    "msr_runtime.inference.device": ("Provider",),
    "msr_runtime.inference.onnx_network": ("OnnxNetwork",),
    "msr_runtime.inference.policy_file": ("PolicyFile",),
    "msr_runtime.inference.predictor": ("BoundPredictor", "Network", "Predictors"),
    "msr_runtime.inference.providers": ("check_providers", "why_inactive"),
    "msr_runtime.inference.sample_spec": ("SampleSpec",),
    "msr_runtime.inference.session": ("make_session",),
    "msr_runtime.inference.state": ("State",),
}
__getattr__ = at_first_use(__name__, _BY_FILE)

__all__ = [
    "BoundPredictor",
    "Network",
    "OnnxNetwork",
    "PolicyFile",
    "Prediction",
    "Predictors",
    "Provider",
    "SampleSpec",
    "State",
    "check_providers",
    "make_session",
    "why_inactive",
]
