"""The outer gradient as one graph: the eager one's numbers."""

import numpy as np
import pytest
import torch

from msr_runtime.meta.learner import LearnerConfig
from msr_runtime.meta.learners import LEARNERS
from msr_runtime.meta.outer import OuterLoss, damp_large, outer_gradient, traced_gradient


@pytest.mark.parametrize("method", LEARNERS)
@pytest.mark.parametrize("changes", [{}, {"first_order": True}, {"reparameterized": True}], ids=str)
def test_the_graph_gives_the_eager_numbers_bit_for_bit(method: str, changes: dict[str, bool]) -> None:
    """Loss and every gradient, also after the parameters moved and on a batch that was not traced."""
    torch.manual_seed(0)
    config = LearnerConfig(width=6, depth=2, inner_steps=3, filters=4, context=3).model_copy(update=changes)
    labels = method == "protonets"
    loss = OuterLoss(LEARNERS[method](config, 3, 2, "cross_entropy" if labels else "mse"))
    rng = np.random.default_rng(0)

    def batch() -> list[torch.Tensor]:
        parts = []
        for samples in (5, 7):
            y = rng.integers(2, size=(4, samples)) if labels else rng.normal(size=(4, samples, 2)).astype(np.float32)
            parts += [rng.normal(size=(4, samples, 3)).astype(np.float32), y]
        return [torch.from_numpy(part) for part in parts]

    eager, traced = outer_gradient(loss), traced_gradient(loss, batch())
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.mul_(0.9)
    other = batch()
    value, gradients = eager(other)
    again, traced_gradients = traced(other)
    assert torch.equal(value, again)
    assert gradients.keys() == traced_gradients.keys() > set()
    assert all(gradients[name].any() for name in gradients if not name.endswith("bias.0.U"))  # whose v may be zero
    for name, gradient in gradients.items():
        assert torch.equal(gradient, traced_gradients[name]), name
    assert not any(gradient.requires_grad for gradient in (again, *traced_gradients.values()))


def test_a_task_that_diverges_does_not_outweigh_the_others() -> None:
    """The damped loss is smooth where it begins, untouched below, and its slope falls as one over the loss above."""
    losses = torch.tensor([0.1, 1 - 1e-9, 1 + 1e-9, 100.0, 1e20], dtype=torch.float64, requires_grad=True)
    damped = damp_large(losses)
    torch.testing.assert_close(damped[:3], losses[:3], rtol=1e-9, atol=0)
    assert damped[-1] < 50
    (slopes,) = torch.autograd.grad(damped.sum(), losses)
    torch.testing.assert_close(slopes, (1 / losses).clamp(max=1), rtol=1e-9, atol=0)


def test_the_outer_gradient_is_that_of_finite_differences() -> None:
    """In float64, along random directions of all of MSR's parameters at once."""
    torch.manual_seed(1)
    learner = LEARNERS["msr"](LearnerConfig(width=4, depth=1, inner_steps=2, filters=3), 2, 2, "mse").double()
    loss = OuterLoss(learner)
    batch = [torch.randn(3, samples, 2, dtype=torch.float64) for samples in (5, 5, 6, 6)]
    _, gradients = outer_gradient(loss)(batch)
    parameters = dict(loss.named_parameters())
    for _ in range(3):
        directions = {name: torch.randn_like(gradient) for name, gradient in gradients.items()}
        slope = sum((gradients[name] * direction).sum() for name, direction in directions.items())
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                moved = {n: parameters[n] + sign * 1e-6 * direction for n, direction in directions.items()}
                values.append(damp_large(torch.func.functional_call(loss, moved, tuple(batch))).mean())
        torch.testing.assert_close((values[0] - values[1]) / 2e-6, slope, rtol=1e-6, atol=1e-9)
