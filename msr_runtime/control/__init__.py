"""What runs in every control tick: the loop at a fixed rate, its report, real-time scheduling and the action guard.

This room deals with time and actions. It does not import a network, a bundle or ONNX Runtime.
"""

from msr_runtime.control.action_guard import ActionGuard, GuardReport, Trip
from msr_runtime.control.loop import ControlLoop
from msr_runtime.control.realtime import RealTime
from msr_runtime.control.report import Limit, LoopLimits, LoopReport, Rate

__all__ = [
    "ActionGuard",
    "ControlLoop",
    "GuardReport",
    "Limit",
    "LoopLimits",
    "LoopReport",
    "Rate",
    "RealTime",
    "Trip",
]
