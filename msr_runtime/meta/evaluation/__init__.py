"""Errors on fresh tasks, measured by the same code for torch learners and for exported bundles."""

from msr_runtime.meta.evaluation.predictor import torch_adapt, torch_unadapted
from msr_runtime.meta.evaluation.scores import Scores, score

__all__ = [
    "Scores",
    "score",
    "torch_adapt",
    "torch_unadapted",
]
