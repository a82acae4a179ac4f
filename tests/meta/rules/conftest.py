"""Small layers and networks on which the rules are tried, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import MSR
from msr_runtime.meta.rules.gauss_newton import GaussNewton, Ridge
from msr_runtime.meta.rules.gradient import GradientSteps
from msr_runtime.meta.rules.rule import Rule, Tensors
from msr_runtime.task import Loss

INPUTS, OUTPUTS = 4, 3


class Toy:
    """What tests use of this file: test modules cannot import it."""

    inputs, outputs = INPUTS, OUTPUTS

    @staticmethod
    def normal(*shape: int, seed: int = 0) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    @staticmethod
    def identity(size: int) -> Tensor:
        """The unit matrix."""
        return torch.eye(size, dtype=torch.float64)

    @staticmethod
    def linear(k: int) -> tuple[Callable[[Tensors, Tensor], Tensor], Tensor, Tensors]:
        """One layer `W = reshape(U v)`, its U and its v."""
        U = Toy.normal(INPUTS * OUTPUTS, k)
        return lambda adapted, x: x @ (U @ adapted["v"]).reshape(OUTPUTS, INPUTS).mT, U, {"v": Toy.normal(k, seed=1)}

    @staticmethod
    def deep(loss: Loss = "mse") -> tuple[MSR, Tensors]:
        """A network of two layers and its adapted tensors, all away from zero."""
        torch.manual_seed(0)
        learner = MSR(LearnerConfig(width=6, depth=1, filters=4), (INPUTS,), (OUTPUTS,), loss).double()
        return learner, {name: tensor.detach() + 0.1 for name, tensor in learner.start().items()}

    @staticmethod
    def support(shots: int, loss: Loss = "mse", seed: int = 2) -> tuple[Tensor, Tensor]:
        """A random support set; targets are class labels for cross entropy."""
        x, y = Toy.normal(shots, INPUTS, seed=seed), 2 * Toy.normal(shots, OUTPUTS, seed=seed + 1)
        return x, y.argmax(1) if loss == "cross_entropy" else y

    @staticmethod
    def rules(names: tuple[str, ...]) -> dict[str, Rule]:
        """One rule of each kind."""
        return {
            "gradient": GradientSteps(dict.fromkeys(names, 0.1), 2, per_step=True),
            "ridge": Ridge(names, damping=0.05),
            "gauss-newton": GaussNewton(names, 2, damping=0.1),
        }

    @staticmethod
    def near(seen: Tensors, wanted: Tensors, tolerance: float = 1e-9) -> None:
        """Compare tensors by name."""
        assert seen.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(seen[name], wanted[name], rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="session")
def toy() -> Toy:
    """Small layers and networks."""
    return Toy()
