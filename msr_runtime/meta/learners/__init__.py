"""The methods. Each combines a network, a choice of the tensors that adapt, and a rule that moves them.

`config` sizes a network and its inner loop, `learner` holds what all methods share, and `methods` holds the methods.
"""

from msr_runtime.meta.learners.attention import Attention
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.function_encoder import FunctionEncoder
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import (
    ANIL,
    CAVIA,
    LEARNERS,
    MAML,
    MSR,
    BigMAML,
    FineTuning,
    MetaSGD,
    NoAdaptation,
    learner_class,
)
from msr_runtime.meta.learners.prototypes import OrbitPrototypes, ProtoNets

__all__ = [
    "ANIL",
    "CAVIA",
    "LEARNERS",
    "MAML",
    "MSR",
    "Attention",
    "BigMAML",
    "FineTuning",
    "FunctionEncoder",
    "Learner",
    "LearnerConfig",
    "MetaSGD",
    "NoAdaptation",
    "OrbitPrototypes",
    "ProtoNets",
    "learner_class",
]
