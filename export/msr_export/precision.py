"""The dtype in which the products of a linear system are summed: float32 if this changes only the last bits of v.

The step is solved from JᵀJ, whose condition number is the square of J's. So it is added up and solved in float64. But
the damping bounds this condition number, whatever the samples are, by the size of the rows of J:

    (largest eigenvalue of JᵀJ + damping n) / (damping n)  <=  1 + mean |row|² / damping

Where the bound is small, the products of a part of the samples may be summed in float32, in half of the time. The parts
are added, and the system is solved, in float64 all the same.
"""

import torch

from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.gauss_newton import GaussNewton

_MOST = 1000.0
"""Largest bound of the condition number for float32. A sum of float32 is exact to about 1e-7 of its size. So the step z
is exact to about 1e-4 of its length if all errors add up; 1e-6 was measured. Rows ten times as long, far outside the
field's range, leave the system positive definite.
"""
_SAMPLES = 256
"""Samples over which the mean of |row|² is taken."""


def sum_dtype(learner: Learner, rule: GaussNewton) -> torch.dtype:
    """Return float32 or float64 for the products of the rule's linear system.

    Args:
        learner: A trained learner. Its samples are those of a normal distribution, in normalized units.
        rule: Its rule.
    """
    random = torch.Generator().manual_seed(0)
    x = torch.randn(_SAMPLES, *learner.inputs, generator=random)
    y = torch.zeros(_SAMPLES, dtype=torch.int64) if learner.classifies else torch.zeros(_SAMPLES, *learner.outputs)
    with torch.no_grad():
        rows, _, _ = rule.linearize(learner.forward, learner.loss, learner.start(), rule.scales(), x, y)
        least = min(rule.damping(index).item() for index in range(rule.own_steps)) * y.numel()
    bound = 1 + rows.double().square().sum().item() / least
    return torch.float32 if bound <= _MOST else torch.float64
