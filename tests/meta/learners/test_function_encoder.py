"""The function encoder: coefficients by one ridge regression, on a basis that the outer loop learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.function_encoder import FunctionEncoder
from msr_runtime.meta.rules.gauss_newton import Ridge
from msr_runtime.meta.training.outer import OuterLoss
from msr_runtime.meta.training.trainer import train

CONFIG = LearnerConfig(width=6, depth=1, context=3)


@pytest.fixture
def learner() -> FunctionEncoder:
    torch.manual_seed(0)
    return FunctionEncoder(CONFIG, (4,), (2,), "mse").double()


def test_the_coefficients_are_those_of_ridge_regression(learner: FunctionEncoder) -> None:
    """Of `|y - g0 - G c|² + damping n |c|²`, as numpy's least squares finds them. One step is exact."""
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    with torch.no_grad():
        values = learner.network.functions(x).reshape(5, 4, 2).numpy()  # type: ignore[operator]
        found = learner.adapt(x, y)["coefficients"].numpy()
        assert isinstance(learner.rule, Ridge)
        damping, (scale,) = learner.rule.damping(0).item(), learner.rule.scales().values()
    assert learner.rule.steps == 1
    assert scale.item() == pytest.approx(1)
    basis = values[:, 1:].transpose(0, 2, 1).reshape(10, 3)
    rows = np.concatenate([basis, np.sqrt(damping * 10) * np.eye(3)])
    targets = np.concatenate([(y.numpy() - values[:, 0]).reshape(10), np.zeros(3)])
    np.testing.assert_allclose(found, np.linalg.lstsq(rows, targets, rcond=None)[0], rtol=1e-6)


def test_every_task_starts_at_zeros_that_are_not_learned(learner: FunctionEncoder) -> None:
    """In the outer loop the coefficients have no gradient. Everything else has, damping and scale too."""
    assert learner.adapted_names == ("coefficients",)
    assert learner.adapted_size() == 3
    start = learner.start()["coefficients"]
    assert not start.any()
    assert not start.requires_grad
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    learner.support_loss(learner.adapt(x, y), x + 1, y).backward()
    without = {name for name, p in learner.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {"network.coefficients"}


def test_the_outer_gradient_is_that_of_finite_differences(learner: FunctionEncoder) -> None:
    """In float64, of all parameters, through the regression."""
    loss = OuterLoss(learner)
    names = [name for name, _ in loss.named_parameters() if not name.endswith("coefficients")]
    batch = tuple(torch.randn(2, n, size, dtype=torch.float64) for n in (5, 6) for size in (4, 2))

    def losses(*tensors: torch.Tensor) -> torch.Tensor:
        return functional_call(loss, dict(zip(names, tensors, strict=True)), batch)

    parameters = dict(loss.named_parameters())
    assert torch.autograd.gradcheck(losses, [parameters[name] for name in names], fast_mode=True)


def test_it_learns(training, tmp_path: Path) -> None:
    """Five samples of a plane that was never seen leave a small error."""
    learner = LearnerConfig(width=16, depth=1, context=8)
    config = training.config(training.Plane(), learner=learner, steps=80, outer_rate=0.02)
    config = config.model_copy(update={"method": "function-encoder"})
    assert train(training.Plane(), config, tmp_path / "run", progress=False).best < 0.1


@pytest.mark.parametrize(
    ("loss", "changes", "message"),
    [
        ("cross_entropy", {}, "by least squares, but the family's loss is cross_entropy; take a family whose loss is"),
        ("huber", {}, "but the family's loss is huber"),
        ("mse", {"rule": "gauss-newton"}, "one step of rule 'ridge', but the rule is 'gauss-newton'; leave rule out"),
        ("mse", {"network": "conv"}, "several outputs for each number of y, but network 'conv' gives a signal"),
    ],
)
def test_what_has_no_exact_regression_is_refused(loss: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=f"method 'function-encoder' .*{message}"):
        FunctionEncoder(CONFIG.model_copy(update=changes), (4,), (2,), loss)


def test_the_rule_is_ridge_whether_it_is_named_or_not() -> None:
    """`gradient`, the default of all methods, gives way to it."""
    for rule in ("gradient", "ridge"):
        built = FunctionEncoder(CONFIG.model_copy(update={"rule": rule}), (4,), (2,), "mse")
        assert isinstance(built.rule, Ridge)
        assert built.config.rule == "ridge"
