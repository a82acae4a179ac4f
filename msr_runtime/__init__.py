"""Load a bundle, adapt it to the robot in a few inner steps, and predict actions, with ONNX Runtime and numpy only.

Everything that a robot's program needs can be imported from here. `Recorder`, `RecorderReport`, `Recording` and
`replay` need the extra `log`. `PolicyServer` needs the extra `serve`. Each name is imported at its first use, and
ONNX Runtime where a graph is to run. So keys, signatures and manifests can be handled, and native code can run, without
ONNX Runtime and without extras.

Example:
    The robot's side, with random numbers in place of measurements. `bundle` is the folder that `msr export` wrote:

    >>> import numpy as np
    >>> from msr_runtime import AdaptiveModel
    >>> model = AdaptiveModel.load(bundle)  # checks all digests and repeats a stored example
    >>> rng = np.random.default_rng(0)
    >>> support_x = rng.uniform(0, 1, (10, 18))  # ten samples in raw units: what the robot measured
    >>> support_y = rng.uniform(-1, 1, (10, 2))  # and what its operator commanded
    >>> result = model.adapt(support_x, support_y)
    >>> result.accepted, result.loss_after < result.loss_before
    (True, True)
    >>> model.predict(support_x[0]).shape  # one observation in, one action out
    (2,)
"""

from typing import TYPE_CHECKING

from msr_runtime.lazy import at_first_use

if TYPE_CHECKING:
    from msr_runtime.adaptation import (
        AdaptiveModel,
        AdaptResult,
        Classified,
        HeldOut,
        OnlineAdapter,
        OnlineReport,
        Refusal,
        SampleRecorder,
        UpdateGuard,
        UpdateResult,
    )
    from msr_runtime.bundle import Bundle, Manifest, check_robot
    from msr_runtime.control import ActionGuard, ControlLoop, GuardReport, Limit, LoopLimits, LoopReport, Trip
    from msr_runtime.errors import (
        BundleError,
        ContractError,
        InputError,
        KeyFileError,
        MsrError,
        ProviderError,
        RealTimeError,
        ServerError,
        SignatureError,
    )
    from msr_runtime.inference import Prediction
    from msr_runtime.recording import Recorder, RecorderReport, Recording, replay
    from msr_runtime.serving import PolicyServer
    from msr_runtime.task import Field

_BY_ROOM = {
    "msr_runtime.adaptation": (
        "AdaptResult",
        "AdaptiveModel",
        "Classified",
        "HeldOut",
        "OnlineAdapter",
        "OnlineReport",
        "Refusal",
        "SampleRecorder",
        "UpdateGuard",
        "UpdateResult",
    ),
    "msr_runtime.bundle": ("Bundle", "Manifest", "check_robot"),
    "msr_runtime.control": ("ActionGuard", "ControlLoop", "GuardReport", "Limit", "LoopLimits", "LoopReport", "Trip"),
    "msr_runtime.errors": (
        "BundleError",
        "ContractError",
        "InputError",
        "KeyFileError",
        "MsrError",
        "ProviderError",
        "RealTimeError",
        "ServerError",
        "SignatureError",
    ),
    "msr_runtime.inference": ("Prediction",),
    "msr_runtime.recording": ("Recorder", "RecorderReport", "Recording", "replay"),
    "msr_runtime.serving": ("PolicyServer",),
    "msr_runtime.task": ("Field",),
}
"""Names by the package that defines them. None is imported before its first use: so the command can first prepare for
Ctrl-C, and what needs no ONNX Runtime and no extra runs without them."""
__getattr__ = at_first_use(__name__, _BY_ROOM)

__all__ = [
    "ActionGuard",
    "AdaptResult",
    "AdaptiveModel",
    "Bundle",
    "BundleError",
    "Classified",
    "ContractError",
    "ControlLoop",
    "Field",
    "GuardReport",
    "HeldOut",
    "InputError",
    "KeyFileError",
    "Limit",
    "LoopLimits",
    "LoopReport",
    "Manifest",
    "MsrError",
    "OnlineAdapter",
    "OnlineReport",
    "PolicyServer",
    "Prediction",
    "ProviderError",
    "RealTimeError",
    "Recorder",
    "RecorderReport",
    "Recording",
    "Refusal",
    "SampleRecorder",
    "ServerError",
    "SignatureError",
    "Trip",
    "UpdateGuard",
    "UpdateResult",
    "check_robot",
    "replay",
]
