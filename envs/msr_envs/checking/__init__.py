"""The checker of the `TaskFamily` contract. Run `check_family` on a family of your own before you train on it.

A family is any object with seven members: `name`, `inputs`, `outputs`, `loss`, `query_sets`, `sample(...)` and
`augment(...)`. It needs no base class. More members are optional: `group()` gives the group as matrices, and `rate_hz`
with `evaluate(...)` measures the robot in closed loop. `msr_runtime.task.TaskFamily` describes the contract.

Example:
    The robot is a cart. A task fixes the gain of its motor. x is the motor current in A, y is the acceleration in m/s2.
    The cart has no front, so changing the sign of x and y together is a symmetry of every task.

    >>> import numpy as np
    >>> from msr_envs import check_family
    >>> from msr_runtime.task import SPLITS, Field, TaskBatch
    >>> class Cart:
    ...     name, loss, query_sets = "cart", "mse", ("all",)
    ...     inputs = (Field(name="current", shape=(1,), unit="A", low=-1, high=1),)
    ...     outputs = (Field(name="acceleration", shape=(1,), unit="m/s2", low=-3, high=3),)
    ...
    ...     def sample(self, rng, tasks, shots, queries, split):
    ...         rng = np.random.default_rng([SPLITS.index(split), rng.integers(2**63)])  # other tasks in other splits
    ...         x = rng.uniform(-1, 1, (tasks, shots + queries, 1)).astype(np.float32)
    ...         y = (rng.uniform(1, 3, (tasks, 1, 1)) * x).astype(np.float32)  # one gain per task
    ...         return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])
    ...
    ...     def augment(self, rng, x, y):
    ...         sign = rng.choice(np.float32([-1, 1]), x.shape)  # one group element per sample
    ...         return sign * x, sign * y
    >>> print(check_family(Cart()))  # raises FamilyError at the first broken rule
    family 'cart' keeps the contract

"""

from msr_envs.checking.family import check_family
from msr_envs.checking.policy import ElementReport, Other, PolicyReport, check_policy

__all__ = [
    "ElementReport",
    "Other",
    "PolicyReport",
    "check_family",
    "check_policy",
]
