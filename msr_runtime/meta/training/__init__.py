"""The outer loop: it prepares a run, takes the outer steps and writes the checkpoints."""

from msr_runtime.meta.training.checkpoint import Checkpoint, build_learner, load_checkpoint, save_checkpoint
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.distributed import Processes, processes
from msr_runtime.meta.training.normalization import measure_normalization
from msr_runtime.meta.training.preparation import Preparation, prepare
from msr_runtime.meta.training.run import Run, open_run
from msr_runtime.meta.training.symmetry_test import AugmentationReport, check_augmentation
from msr_runtime.meta.training.task_test import TaskReport, check_tasks
from msr_runtime.meta.training.trainer import MetaTrainer, TrainResult, train

__all__ = [
    "AugmentationReport",
    "Checkpoint",
    "MetaTrainer",
    "Preparation",
    "Processes",
    "Run",
    "TaskReport",
    "TrainConfig",
    "TrainResult",
    "TrainSettings",
    "build_learner",
    "check_augmentation",
    "check_tasks",
    "load_checkpoint",
    "measure_normalization",
    "open_run",
    "prepare",
    "processes",
    "save_checkpoint",
    "train",
]
