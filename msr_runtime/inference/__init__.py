"""ONNX Runtime for a control loop: checked providers, sessions with one thread, and buffers that are reused.

This package runs graphs. It does not know bundles or adaptation.
"""

from msr_runtime.inference.deviation import Prediction
from msr_runtime.inference.onnx_network import OnnxNetwork
from msr_runtime.inference.policy_file import PolicyFile
from msr_runtime.inference.predictor import BoundPredictor, Network, Predictors
from msr_runtime.inference.providers import Provider, check_providers, why_inactive
from msr_runtime.inference.sample_spec import SampleSpec
from msr_runtime.inference.session import make_session
from msr_runtime.inference.state import State

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
