"""Recordings: MCAP files that hold what a robot saw, did and learned. This room writes, reads and replays them.

It needs the extra `log`.
"""

from msr_runtime.recording.messages import RECORDING_VERSION
from msr_runtime.recording.reader import Recording
from msr_runtime.recording.recorder import Recorder, RecorderReport
from msr_runtime.recording.replay import FieldDifference, ReplayReport, replay

__all__ = [
    "RECORDING_VERSION",
    "FieldDifference",
    "Recorder",
    "RecorderReport",
    "Recording",
    "ReplayReport",
    "replay",
]
