"""Adaptation rules: how the samples of a support set move the tensors that adapt. Below, these tensors are called v.

    GradientSteps   v <- v - rate * dloss/dv    several steps; the rates are learned
    GaussNewton     v <- v + z                  one or a few steps; z solves (JᵀJ + damping n I) z = -Jᵀ r
    Ridge           v <- v + z                  exact in one step, if the network is linear in v
    Recursive       v <- v + gain * error       one sample after another; it knows how sure it is of v

r are the residuals (outputs minus targets, for squared errors), J is their Jacobian with respect to v, and n is the
number by which the mean loss divides. `GaussNewton` explains the equation. The rules differentiate through
`torch.func`, so the outer loop can differentiate through the rules.
"""

from msr_runtime.meta.rules.belief import Belief
from msr_runtime.meta.rules.gauss_newton import GaussNewton, Ridge
from msr_runtime.meta.rules.gradient import GradientSteps, SignedSteps, inner_step
from msr_runtime.meta.rules.recursive import Observation, Recursive
from msr_runtime.meta.rules.rule import LOSSES, Rule, Tensors

__all__ = [
    "LOSSES",
    "Belief",
    "GaussNewton",
    "GradientSteps",
    "Observation",
    "Recursive",
    "Ridge",
    "Rule",
    "SignedSteps",
    "Tensors",
    "inner_step",
]
