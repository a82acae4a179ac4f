"""Gradient steps are plain gradient descent, and the outer loop can differentiate through them."""

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from msr_runtime.errors import TrainingError
from msr_runtime.meta.rules.gradient import GradientSteps, SignedSteps, inner_step
from msr_runtime.meta.rules.rule import LOSSES, Tensors

torch.manual_seed(0)
X, Y = torch.randn(3, 6, 4, dtype=torch.float64), torch.randn(3, 6, 2, dtype=torch.float64)


def _loss(adapted: Tensors, x: Tensor = X[0], y: Tensor = Y[0]) -> Tensor:
    return ((torch.tanh(x @ adapted["w"]) + adapted["b"] - y) ** 2).mean()


def _start() -> tuple[Tensors, Tensors]:
    generator = torch.Generator().manual_seed(1)
    adapted = {
        "w": torch.randn(4, 2, dtype=torch.float64, generator=generator),
        "b": torch.randn(2, dtype=torch.float64, generator=generator),
    }
    rates = {"w": torch.full((4, 2), 0.3, dtype=torch.float64), "b": torch.tensor(0.2, dtype=torch.float64)}
    return adapted, rates


def _steps(
    adapted: Tensors, rates: Tensors, steps: int, *, first_order: bool = False, x: Tensor = X[0], y: Tensor = Y[0]
) -> Tensors:
    for _ in range(steps):
        adapted, _ = inner_step(lambda p: _loss(p, x, y), adapted, rates, first_order=first_order)
    return adapted


def _by_hand(adapted: Tensors, rates: Tensors, steps: int, *, create_graph: bool) -> Tensors:
    for _ in range(steps):
        gradients = torch.autograd.grad(_loss(adapted), list(adapted.values()), create_graph=create_graph)
        moves = zip(adapted.items(), gradients, strict=True)
        adapted = {name: tensor - rates[name] * gradient for (name, tensor), gradient in moves}
    return adapted


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_equals_a_loop_written_by_hand(steps: int, first_order: bool) -> None:
    """The adapted tensors, and the first- or second-order outer gradients by start and rates, are equal."""
    results = []
    for by_hand in (True, False):
        adapted, rates = _start()
        leaves = [tensor.requires_grad_() for tensor in (*adapted.values(), *rates.values())]
        if by_hand:
            moved = _by_hand(adapted, rates, steps, create_graph=not first_order)
        else:
            moved = _steps(adapted, rates, steps, first_order=first_order)
        outer = torch.autograd.grad(_loss(moved, X[1], Y[1]), leaves, allow_unused=True, materialize_grads=True)
        results.append((*moved.values(), *outer))
    for seen, wanted in zip(*results, strict=True):
        torch.testing.assert_close(seen, wanted, rtol=0, atol=1e-12)


def test_first_order_has_equal_values_and_other_gradients() -> None:
    """Without the second order, only the gradients of the outer loop change."""
    adapted, rates = _start()
    adapted["w"].requires_grad_()
    moved = [_steps(adapted, rates, 3, first_order=first_order) for first_order in (False, True)]
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=0)
    second, first = (torch.autograd.grad(_loss(m, X[1], Y[1]), adapted["w"])[0] for m in moved)
    assert (second - first).abs().max() > 1e-3


def test_a_step_returns_the_loss_before_it_and_lowers_it() -> None:
    """The returned value is the loss at the tensors before the step."""
    adapted, rates = _start()
    moved, before = inner_step(_loss, adapted, rates)
    assert before == _loss(adapted)
    assert _loss(moved) < before


def test_vmap_over_tasks_equals_a_loop_over_tasks() -> None:
    """Tasks do not influence each other."""
    adapted, rates = _start()

    def adapt(x: Tensor, y: Tensor) -> Tensors:
        return _steps(adapted, rates, 3, x=x, y=y)

    together = vmap(adapt)(X, Y)
    for task in range(len(X)):
        alone = adapt(X[task], Y[task])
        for name in alone:
            torch.testing.assert_close(together[name][task], alone[name], rtol=0, atol=1e-12)


def test_gradient_steps_have_the_rates_of_their_step_and_signed_ones_of_their_number(toy) -> None:
    """Equal to steps written by hand. The third step of a rule of two uses the second's rate."""
    learner, adapted = toy.deep()
    x, y = toy.support(4)
    rule = GradientSteps(dict.fromkeys(adapted, 0.1), 2, per_step=True).double()
    with torch.no_grad():
        rule.rate_parameters[1].sub_(1)
    signed = SignedSteps({name: 0.1 * torch.randn_like(tensor) for name, tensor in adapted.items()}, 3)
    for each in (rule, signed):
        here = adapted
        for index in (0, 1, 1):
            gradients = torch.func.grad(lambda a: LOSSES["mse"](learner(a, x), y))(here)
            here = {name: tensor - each.rates(index)[name] * gradients[name] for name, tensor in here.items()}
        toy.near(each(learner, "mse", adapted, x, y, steps=3), here, 1e-12)
    assert rule.rates(1)[learner.adapted_names[0]] < 0.5 * rule.rates(0)[learner.adapted_names[0]]
    signed.shrink()
    assert min(float(rates.detach().min()) for rates in signed.rates(0).values()) < 0


def test_no_steps_and_a_rate_of_zero_are_refused() -> None:
    """A rule takes at least one step, at positive rates."""
    with pytest.raises(TrainingError, match="has 0 steps"):
        GradientSteps({"v": 0.1}, 0)
    with pytest.raises(TrainingError, match="starts at 0, but must be above 0"):
        GradientSteps({"v": 0.0}, 1)
