"""Outer gradients in parts equal the gradient of the whole batch, and a part is no larger than the cache."""

import pytest
import torch

from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.meta.training.chunks import CACHED, tasks_at_once
from msr_runtime.meta.training.outer import OuterLoss, outer_gradient, traced_gradient


@pytest.mark.parametrize("at_once", [1, 2, 6])
def test_the_gradient_of_parts_is_that_of_the_whole(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, with weights. The traced gradient equals the eager one bit for bit."""
    torch.manual_seed(0)
    config = LearnerConfig(network="conv", width=3, depth=1, inner_steps=2, filters=4)
    loss = OuterLoss(LEARNERS["msr"](config, (1, 6, 6), (2, 6, 6), "mse").double())
    batch = [torch.randn(6, n, c, 6, 6, dtype=torch.float64) for n in (2, 3) for c in (1, 2)]
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    assert tasks_at_once(loss.learner, batch) == 6
    wanted, wanted_gradients = outer_gradient(loss)(batch, weights)
    monkeypatch.setattr("msr_runtime.meta.training.outer.tasks_at_once", lambda *_: at_once)
    value, gradients = outer_gradient(loss)(batch, weights)
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    traced_value, traced = traced_gradient(loss, batch, weights)(batch, weights)
    assert torch.equal(value, traced_value)
    for name, gradient in wanted_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-14)
        assert torch.equal(gradients[name], traced[name])


def test_large_images_are_taken_a_few_tasks_at_a_time_and_vectors_together() -> None:
    """The size of samples and results decides, not the size of U. All parts have the same number of tasks."""
    images = [torch.zeros(12, n, c, 32, 32) for n in (1, 19) for c in (1, 24)]
    dense = LEARNERS["maml"](LearnerConfig(network="conv", depth=1, width=16), (1, 32, 32), (24, 32, 32), "mse")
    at_once = tasks_at_once(dense, images)
    assert at_once in (2, 3)
    wider = LEARNERS["maml"](LearnerConfig(network="conv", depth=1, width=256), (1, 32, 32), (24, 32, 32), "mse")
    assert tasks_at_once(wider, images) == 1
    vectors = [torch.zeros(16, n, c) for n in (10, 32) for c in (18, 2)]
    big = LEARNERS["msr"](LearnerConfig(width=128), (18,), (2,), "mse")
    assert sum(p.nbytes for p in big.parameters()) > CACHED / 4
    assert tasks_at_once(big, vectors) == 16
