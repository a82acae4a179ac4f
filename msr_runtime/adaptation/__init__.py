"""Learning on the robot: the inner loop, the model that it adapts, the guard of updates and the online adapter.

This room runs a bundle's graphs in ONNX Runtime. `OnlineAdapter` hands its samples and adaptations to any object with
the methods of `SampleRecorder`, so this room does not import the recorder.

Each name is imported at its first use: a model that is loaded and adapted needs neither the online adapter nor the
control loop.
"""

from typing import TYPE_CHECKING

from msr_runtime.lazy import at_first_use

if TYPE_CHECKING:
    from msr_runtime.adaptation.classifying import Classified
    from msr_runtime.adaptation.comparison import Helping, Verdict
    from msr_runtime.adaptation.family import FamilyVerdict
    from msr_runtime.adaptation.inner_loop import InnerLoop
    from msr_runtime.adaptation.input_faults import FaultVerdict
    from msr_runtime.adaptation.judges import HeldOut
    from msr_runtime.adaptation.measured import Limits
    from msr_runtime.adaptation.model import AdaptiveModel
    from msr_runtime.adaptation.online import OnlineAdapter
    from msr_runtime.adaptation.prequential import Drive, Score, score
    from msr_runtime.adaptation.report import OnlineReport
    from msr_runtime.adaptation.result import AdaptResult
    from msr_runtime.adaptation.sample_recorder import SampleRecorder
    from msr_runtime.adaptation.sample_window import SampleWindow
    from msr_runtime.adaptation.start import Start
    from msr_runtime.adaptation.update_guard import Refusal, UpdateGuard
    from msr_runtime.adaptation.update_result import UpdateResult
    from msr_runtime.adaptation.weights_recorder import WeightsRecorder

_BY_FILE = {
    "msr_runtime.adaptation.classifying": ("Classified",),
    "msr_runtime.adaptation.comparison": (
        "Helping",
        "Verdict",
    ),
    "msr_runtime.adaptation.family": ("FamilyVerdict",),
    "msr_runtime.adaptation.input_faults": ("FaultVerdict",),
    "msr_runtime.adaptation.inner_loop": ("InnerLoop",),
    "msr_runtime.adaptation.judges": ("HeldOut",),
    "msr_runtime.adaptation.measured": ("Limits",),
    "msr_runtime.adaptation.model": ("AdaptiveModel",),
    "msr_runtime.adaptation.online": ("OnlineAdapter",),
    "msr_runtime.adaptation.prequential": (
        "Drive",
        "Score",
        "score",
    ),
    "msr_runtime.adaptation.report": ("OnlineReport",),
    "msr_runtime.adaptation.result": ("AdaptResult",),
    "msr_runtime.adaptation.sample_recorder": ("SampleRecorder",),
    "msr_runtime.adaptation.sample_window": ("SampleWindow",),
    "msr_runtime.adaptation.start": ("Start",),
    "msr_runtime.adaptation.update_guard": (
        "Refusal",
        "UpdateGuard",
    ),
    "msr_runtime.adaptation.update_result": ("UpdateResult",),
    "msr_runtime.adaptation.weights_recorder": ("WeightsRecorder",),
}
__getattr__ = at_first_use(__name__, _BY_FILE)

__all__ = [
    "AdaptResult",
    "AdaptiveModel",
    "Classified",
    "Drive",
    "FamilyVerdict",
    "FaultVerdict",
    "HeldOut",
    "Helping",
    "InnerLoop",
    "Limits",
    "OnlineAdapter",
    "OnlineReport",
    "Refusal",
    "SampleRecorder",
    "SampleWindow",
    "Score",
    "Start",
    "UpdateGuard",
    "UpdateResult",
    "Verdict",
    "WeightsRecorder",
    "score",
]
