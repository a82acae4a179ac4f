"""The outer loss and its gradient: eager, traced, and with losses after every inner step."""

import numpy as np
import pytest
import torch

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.meta.training.outer import (
    OuterLoss,
    damp_large,
    inner_path,
    outer_gradient,
    step_weights,
    traced_gradient,
)


@pytest.mark.parametrize("method", [name for name in LEARNERS if name != "orbit-prototypes"])  # it takes images
@pytest.mark.parametrize("changes", [{}, {"first_order": True}, {"reparameterized": True}], ids=str)
def test_the_graph_gives_the_eager_numbers_bit_for_bit(method: str, changes: dict[str, bool]) -> None:
    """Loss and every gradient are equal, for moved parameters and for a batch that was not traced."""
    torch.manual_seed(0)
    config = LearnerConfig(width=6, depth=1, inner_steps=2, filters=4, context=3).model_copy(update=changes)
    labels = method == "protonets"
    loss = OuterLoss(LEARNERS[method](config, (3,), (2,), "cross_entropy" if labels else "mse"))
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
    """Below 1, a loss stays as it is. Above 1, its slope is one over the loss. The two parts meet smoothly."""
    losses = torch.tensor([0.1, 1 - 1e-9, 1 + 1e-9, 100.0, 1e20], dtype=torch.float64, requires_grad=True)
    damped = damp_large(losses)
    torch.testing.assert_close(damped[:3], losses[:3], rtol=1e-9, atol=0)
    assert damped[-1] < 50
    (slopes,) = torch.autograd.grad(damped.sum(), losses)
    torch.testing.assert_close(slopes, (1 / losses).clamp(max=1), rtol=1e-9, atol=0)


def test_the_outer_gradient_is_that_of_finite_differences() -> None:
    """In float64, along random directions in the space of all parameters of MSR."""
    torch.manual_seed(1)
    learner = LEARNERS["msr"](LearnerConfig(width=4, depth=1, inner_steps=2, filters=3), (2,), (2,), "mse").double()
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


def test_losses_after_every_step_weigh_alike_first_and_the_last_alone_at_last() -> None:
    """The weights sum to one in every outer step. Those of earlier inner steps fall, until only the last one counts."""
    weights = [step_weights(step, 20, 4) for step in range(20)]
    assert all(w is not None and torch.isclose(w.sum(), torch.tensor(1.0)) for w in weights)
    table = torch.stack([w for w in weights if w is not None])
    torch.testing.assert_close(table[0], torch.full((4,), 0.25))
    assert (table.diff(dim=0)[:, :3] < 0).all()
    assert (table.diff(dim=0)[:, 3] > 0).all()
    torch.testing.assert_close(table[-1], torch.tensor([0.0125, 0.0125, 0.0125, 0.9625]))
    assert step_weights(20, 20, 4) is None
    assert step_weights(0, 0, 4) is None


def multi_step_case() -> tuple[OuterLoss, list[torch.Tensor]]:
    """A loss with three inner steps, and a batch, in float64."""
    torch.manual_seed(1)
    config = LearnerConfig(width=4, depth=1, inner_steps=3, filters=3, step_rates=True)
    batch = [torch.randn(3, samples, 2, dtype=torch.float64) for samples in (5, 5, 6, 6)]
    return OuterLoss(LEARNERS["msr"](config, (2,), (2,), "mse").double()), batch


def test_the_weighted_loss_is_the_sum_of_what_fewer_steps_give() -> None:
    """It is, for each task. With all weight on the last step, loss and gradient are the plain ones."""
    loss, batch = multi_step_case()
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    learner, zero = loss.learner, torch.zeros((), dtype=torch.float64)
    wanted = [
        sum((w * learner.support_loss(learner.adapt(sx, sy, i), qx, qy) for i, w in enumerate(weights, 1)), zero)
        for sx, sy, qx, qy in zip(*batch, strict=True)
    ]
    torch.testing.assert_close(loss(*batch, weights), torch.stack(wanted), rtol=1e-12, atol=0)
    value, gradients = outer_gradient(loss)(batch, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    plain_value, plain = outer_gradient(loss)(batch)
    torch.testing.assert_close(value, plain_value, rtol=1e-12, atol=0)
    for name, gradient in plain.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-15)


def test_the_gradient_of_the_weighted_loss_is_that_of_finite_differences() -> None:
    """In float64, along a random direction in the space of all parameters."""
    loss, batch = multi_step_case()
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    _, gradients = outer_gradient(loss)(batch, weights)
    assert all(gradients[name].any() for name in gradients if not name.endswith("bias.0.U"))
    parameters = dict(loss.named_parameters())
    directions = {name: torch.randn_like(gradient) for name, gradient in gradients.items()}
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            moved = {n: parameters[n] + sign * 1e-6 * direction for n, direction in directions.items()}
            values.append(damp_large(torch.func.functional_call(loss, moved, (*batch, weights))).mean())
    slope = sum((gradients[name] * direction).sum() for name, direction in directions.items())
    torch.testing.assert_close((values[0] - values[1]) / 2e-6, slope, rtol=1e-6, atol=1e-9)


def test_a_traced_graph_takes_other_weights_than_it_was_traced_with() -> None:
    """It gives the eager numbers for the new weights, bit for bit, and these differ from those of the first weights."""
    loss, batch = multi_step_case()
    first, second = (torch.tensor(w, dtype=torch.float64) for w in ([0.4, 0.3, 0.3], [0.1, 0.1, 0.8]))
    traced = traced_gradient(loss, batch, first)
    value, gradients = outer_gradient(loss)(batch, second)
    again, found = traced(batch, second)
    assert torch.equal(value, again)
    assert not torch.equal(value, traced(batch, first)[0])
    assert all(torch.equal(gradients[name], found[name]) for name in gradients)


@pytest.mark.parametrize("method", ["fine-tuning", "no-adaptation", "protonets"])
def test_methods_without_inner_steps_have_no_losses_after_them(method: str) -> None:
    """The message names the method."""
    learner = LEARNERS[method](LearnerConfig(depth=1), (2,), (2,), "cross_entropy")
    with pytest.raises(TrainingError, match=f"method '{method}' takes no inner steps in training"):
        inner_path(learner, torch.randn(3, 2), torch.tensor([0, 1, 1]))
