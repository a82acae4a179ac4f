"""Recomputed inner steps give the same numbers as kept ones."""

import json
from typing import Any

import pytest
import torch

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.meta.training.outer import OuterLoss, outer_gradient, traced_gradient

CONFIG = LearnerConfig(width=4, depth=1, rule="gradient", inner_steps=3, filters=3)


def batch() -> list[torch.Tensor]:
    return [torch.randn(3, samples, 2, dtype=torch.float64) for samples in (5, 5, 6, 6)]


def assert_same(found: tuple[torch.Tensor, Tensors], wanted: tuple[torch.Tensor, Tensors], loss: OuterLoss) -> None:
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-12, atol=0)
    for name, parameter in loss.named_parameters():
        # a parameter on which the loss does not depend may have a gradient of zeros, or no gradient
        a, b = (gradients.get(name, torch.zeros_like(parameter)) for _, gradients in (found, wanted))
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("msr", {}),
        ("msr", {"step_rates": True, "first_order": True}),
        ("maml", {"rule": "gauss-newton"}),
        ("anil", {"rule": "ridge"}),
        ("cavia", {}),
        ("meta-sgd", {}),
    ],
)
def test_recomputed_steps_give_the_loss_and_gradients_of_kept_ones(method: str, changes: dict[str, Any]) -> None:
    """In float64, for the last loss only and for weighted losses."""
    torch.manual_seed(0)
    config = CONFIG.model_copy(update=changes)
    learner, given = LEARNERS[method](config, (2,), (2,), "mse").double(), batch()
    kept, again = OuterLoss(learner), OuterLoss(learner, recompute=True)
    assert learner.rule is not None
    for weights in (None, torch.linspace(1, 2, learner.rule.steps, dtype=torch.float64)):
        assert_same(outer_gradient(again)(given, weights), outer_gradient(kept)(given, weights), kept)


def test_recomputed_steps_are_traced() -> None:
    """The graph gives the eager numbers bit for bit, on a batch that was not traced."""
    learner = LEARNERS["msr"](CONFIG, (2,), (2,), "mse").double()
    loss, other = OuterLoss(learner, recompute=True), batch()
    value, gradients = traced_gradient(loss, batch())(other)
    wanted_value, wanted = outer_gradient(loss)(other)
    assert torch.equal(value, wanted_value)
    assert gradients.keys() == wanted.keys() > set()
    assert all(torch.equal(gradients[name], wanted[name]) for name in wanted)


def test_the_steps_are_computed_twice_and_not_kept() -> None:
    """The network runs once more for each inner step, and only when the gradient is computed."""
    learner = LEARNERS["msr"](CONFIG, (2,), (2,), "mse").double()
    runs = 0

    def count(*_: object) -> None:
        nonlocal runs
        runs += 1

    learner.network.register_forward_hook(count)
    value = OuterLoss(learner, recompute=True)(*batch()).mean()
    assert runs == 3 + 1
    value.backward()
    assert runs == 3 + 1 + 3


def test_a_run_is_the_same_to_rounding(training, tmp_path) -> None:
    """Its validation losses are equal, with `multi_step` on."""
    runs = []
    for name, recompute in (("kept", False), ("again", True)):
        training.trainer(tmp_path / name, steps=8, validation_every=4, recompute=recompute, multi_step=4).train()
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        runs.append([row["validation_loss"] for row in rows])
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)


def test_methods_without_inner_steps_have_nothing_to_recompute() -> None:
    """The message names the method and the settings to change."""
    learner = LEARNERS["no-adaptation"](LearnerConfig(depth=1), (2,), (2,), "mse").double()
    with pytest.raises(
        TrainingError, match=r"method 'no-adaptation' takes no inner steps .*set multi_step to 0.* recompute to False"
    ):
        OuterLoss(learner, recompute=True)(*batch())
