"""Offline meta-learning in torch. A training script finds every name that it needs here. The robot never imports it.

Train on a family in one call:

    config = TrainConfig.of(family, "msr", LearnerConfig(), TrainSettings())
    train(family, config, "runs/ring")

`train` makes three calls, one after the other. Make them yourself to look at the values between them:

    run = open_run("runs/ring", config)  # looks into the folder
    prepared = prepare(family, config)  # checks the family, simulates the tasks
    print(prepared)
    MetaTrainer(prepared, run).train()  # trains, and does nothing else
"""

from msr_runtime.meta.evaluation import Scores, floors, score, torch_adapt
from msr_runtime.meta.learners import LEARNERS, Learner, LearnerConfig
from msr_runtime.meta.programs import register
from msr_runtime.meta.symmetry import LayerReport, LayerSpec, filter_parameter_names, fold, reparameterize
from msr_runtime.meta.training import (
    AugmentationReport,
    Checkpoint,
    MetaTrainer,
    Preparation,
    Processes,
    Run,
    TaskReport,
    TrainConfig,
    TrainResult,
    TrainSettings,
    check_augmentation,
    check_tasks,
    load_checkpoint,
    open_run,
    prepare,
    processes,
    train,
)

__all__ = [
    "LEARNERS",
    "AugmentationReport",
    "Checkpoint",
    "LayerReport",
    "LayerSpec",
    "Learner",
    "LearnerConfig",
    "MetaTrainer",
    "Preparation",
    "Processes",
    "Run",
    "Scores",
    "TaskReport",
    "TrainConfig",
    "TrainResult",
    "TrainSettings",
    "check_augmentation",
    "check_tasks",
    "filter_parameter_names",
    "floors",
    "fold",
    "load_checkpoint",
    "open_run",
    "prepare",
    "processes",
    "register",
    "reparameterize",
    "score",
    "torch_adapt",
    "train",
]
