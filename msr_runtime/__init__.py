"""Load a bundle, adapt it in a few gradient steps and act, with ONNX Runtime and numpy alone."""

from msr_runtime.bundle import Bundle
from msr_runtime.contract import check_robot
from msr_runtime.errors import BundleError, ContractError, InputError, MsrError, ProviderError, SignatureError
from msr_runtime.guard import ActionGuard, UpdateGuard
from msr_runtime.loop import ControlLoop, LoopReport
from msr_runtime.manifest import Manifest
from msr_runtime.model import AdaptiveModel, AdaptResult
from msr_runtime.online import OnlineAdapter
from msr_runtime.task import Field

__all__ = [
    "ActionGuard",
    "AdaptResult",
    "AdaptiveModel",
    "Bundle",
    "BundleError",
    "ContractError",
    "ControlLoop",
    "Field",
    "InputError",
    "LoopReport",
    "Manifest",
    "MsrError",
    "OnlineAdapter",
    "ProviderError",
    "SignatureError",
    "UpdateGuard",
    "check_robot",
]
