"""Errors on fresh tasks, measured by the same code for torch learners and for exported bundles."""

from msr_runtime.meta.evaluation.calibration import Calibration, calibrate
from msr_runtime.meta.evaluation.floor_methods import floors
from msr_runtime.meta.evaluation.predictor import torch_adapt, torch_adapt_surely, torch_unadapted
from msr_runtime.meta.evaluation.scores import Scores, score, score_all

__all__ = [
    "Calibration",
    "Scores",
    "calibrate",
    "floors",
    "score",
    "score_all",
    "torch_adapt",
    "torch_adapt_surely",
    "torch_unadapted",
]
