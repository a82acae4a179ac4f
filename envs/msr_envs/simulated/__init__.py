"""A task family from a simulator: any Gymnasium environment, or a vector environment, which may run on a GPU.

`EnvFamily` names an environment and says how a task is drawn. The rest has defaults: actions are random, x is the
observation and the action, and y is the change of the observation in one step.

Example:
    Pendulums that differ in gravity:

    >>> import numpy as np
    >>> from msr_envs.simulated import Change, EnvFamily
    >>> pendulum = EnvFamily(
    ...     "Pendulum-v1",
    ...     task=lambda rng: {"g": rng.uniform(5, 15)},
    ...     observation={"direction": 2, "rate": 1},
    ...     y=Change("rate"),
    ...     tasks=(4, 2, 2),
    ...     examples=20,
    ... )
    >>> [field.name for field in (*pendulum.inputs, *pendulum.outputs)]
    ['direction', 'rate', 'action', 'rate_change']
    >>> batch = pendulum.sample(np.random.default_rng(0), tasks=3, shots=5, queries=10, split="train")
    >>> batch.support_x.shape, batch.query_y.shape
    ((3, 5, 4), (3, 10, 1))
"""

from msr_envs.simulated.actions import Excitation, Policy, RandomActions, SmoothActions
from msr_envs.simulated.family import EnvFamily, SymmetricEnvFamily
from msr_envs.simulated.phases import Phase
from msr_envs.simulated.targets import Change, Computed, Expert, Target, Transitions

__all__ = [
    "Change",
    "Computed",
    "EnvFamily",
    "Excitation",
    "Expert",
    "Phase",
    "Policy",
    "RandomActions",
    "SmoothActions",
    "SymmetricEnvFamily",
    "Target",
    "Transitions",
]
