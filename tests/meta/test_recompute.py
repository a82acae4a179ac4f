"""Inner steps that are computed again: the numbers of those that are kept."""

import json
from typing import Any

import pytest
import torch

from msr_runtime.errors import TrainingError
from msr_runtime.meta.inner import Tensors
from msr_runtime.meta.learner import LearnerConfig
from msr_runtime.meta.learners import LEARNERS
from msr_runtime.meta.outer import OuterLoss, outer_gradient, traced_gradient


def batch() -> list[torch.Tensor]:
    return [torch.randn(3, samples, 2, dtype=torch.float64) for samples in (5, 5, 6, 6)]


def assert_same(found: tuple[torch.Tensor, Tensors], wanted: tuple[torch.Tensor, Tensors], loss: OuterLoss) -> None:
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-12, atol=0)
    for name, parameter in loss.named_parameters():
        # one that only numbers which do not count depend on has a gradient of zeros, or none
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
    """In float64, of the last loss alone and of weighted ones."""
    torch.manual_seed(0)
    config = LearnerConfig.model_validate({"width": 4, "depth": 1, "inner_steps": 3, "filters": 3} | changes)
    learner, given = LEARNERS[method](config, (2,), (2,), "mse").double(), batch()
    kept, again = OuterLoss(learner), OuterLoss(learner, recompute=True)
    assert learner.rule is not None
    for weights in (None, torch.linspace(1, 2, learner.rule.steps, dtype=torch.float64)):
        assert_same(outer_gradient(again)(given, weights), outer_gradient(kept)(given, weights), kept)


def test_recomputed_steps_are_traced() -> None:
    """Bit for bit the eager numbers, on a batch that was not traced."""
    learner = LEARNERS["msr"](LearnerConfig(width=4, depth=1, inner_steps=3, filters=3), (2,), (2,), "mse").double()
    loss, other = OuterLoss(learner, recompute=True), batch()
    value, gradients = traced_gradient(loss, batch())(other)
    wanted_value, wanted = outer_gradient(loss)(other)
    assert torch.equal(value, wanted_value)
    assert gradients.keys() == wanted.keys() > set()
    assert all(torch.equal(gradients[name], wanted[name]) for name in wanted)


def test_the_steps_are_computed_twice_and_not_kept() -> None:
    """The network is run again for each inner step, when the gradient is taken and not before."""
    learner = LEARNERS["msr"](LearnerConfig(width=4, depth=1, inner_steps=3, filters=3), (2,), (2,), "mse").double()
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
    """Its losses, with those after every inner step."""
    runs = []
    for name, recompute in (("kept", False), ("again", True)):
        training.trainer(tmp_path / name, steps=8, validation_every=4, recompute=recompute, multi_step=4).train()
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        runs.append([row["validation_loss"] for row in rows])
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)


def test_methods_without_inner_steps_have_nothing_to_recompute() -> None:
    learner = LEARNERS["no-adaptation"](LearnerConfig(depth=1), (2,), (2,), "mse").double()
    with pytest.raises(TrainingError, match=r"method 'no-adaptation' takes no inner steps .* recompute off"):
        OuterLoss(learner, recompute=True)(*batch())
