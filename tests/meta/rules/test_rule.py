"""What holds for every adaptation rule."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from msr_runtime.errors import TrainingError
from msr_runtime.meta.rules.gauss_newton import GaussNewton
from msr_runtime.meta.rules.rule import LOSSES, Rule, Tensors
from msr_runtime.task import Loss


@pytest.mark.parametrize("kind", ["gradient", "ridge", "gauss-newton"])
def test_every_rule_lets_the_outer_loop_through(toy, kind: str) -> None:
    """First and second derivatives by U, v0 and the rule's own numbers are right."""
    learner, adapted = toy.deep()
    rule = toy.rules(learner.adapted_names)[kind].double()
    x, y = toy.support(2)
    names = [name for name, _ in learner.network.named_parameters() if name not in adapted]
    rules = [name for name, _ in rule.named_parameters()]
    leaves = [learner.network.get_parameter(name).detach() for name in names]
    leaves = [*leaves, *adapted.values(), *(p.detach() for p in rule.parameters())]

    def moved(*leaves: Tensor) -> tuple[Tensor, ...]:
        U = dict(zip(names, leaves, strict=False))
        v0 = dict(zip(adapted, leaves[len(U) :], strict=False))
        numbers = dict(zip(rules, leaves[len(U) + len(v0) :], strict=True))

        def forward(adapted: Tensors, x: Tensor) -> Tensor:
            return functional_call(learner.network, U | adapted, (x,))

        return tuple(functional_call(rule, numbers, (forward, "mse", v0, x, y)).values())

    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(moved, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(moved, leaves, fast_mode=True)


@pytest.mark.parametrize("loss", LOSSES)
def test_vmap_over_tasks_equals_a_loop_over_tasks(toy, loss: Loss) -> None:
    """Also when traced into one graph, bit for bit, as the outer loop runs it."""
    learner, adapted = toy.deep(loss)
    supports = [toy.support(3, loss, seed=seed) for seed in (2, 5)]
    x, y = (torch.stack(parts) for parts in zip(*supports, strict=True))
    for kind, rule in toy.rules(learner.adapted_names).items():
        if kind == "ridge" and loss != "mse":
            continue
        rule.double()

        together = vmap(partial(rule, learner, loss, adapted))
        for task, support in enumerate(supports):
            alone = rule(learner, loss, adapted, *support)
            toy.near({name: part[task] for name, part in together(x, y).items()}, alone, 1e-10)
        toy.near(make_fx(together)(x, y)(x, y), together(x, y), 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_rule_does_not_depend_on_how_often_the_support_is_repeated(toy, loss: Loss) -> None:
    """A mean loss is the same for copies of a support: an update off by the batch size fails here."""
    learner, adapted = toy.deep(loss)
    x, y = toy.support(2, loss)
    for kind, rule in toy.rules(learner.adapted_names).items():
        if kind == "ridge" and loss != "mse":
            continue
        moved = [rule.double()(learner, loss, adapted, torch.cat([x] * n), torch.cat([y] * n)) for n in (1, 2, 20)]
        toy.near(moved[1], moved[0])
        toy.near(moved[2], moved[0])


def test_every_rule_stays_finite_with_one_sample_and_with_copies_of_it(toy) -> None:
    """In float32, with almost no damping: the moved tensors and the gradients of the outer loop."""
    learner, adapted = toy.deep()
    learner.float()
    adapted = {name: tensor.float().requires_grad_() for name, tensor in adapted.items()}
    for shots in (1, 7):
        x, y = (part[:1].expand(shots, -1).float() for part in toy.support(1))
        for rule in (*toy.rules(learner.adapted_names).values(), GaussNewton(adapted, 3, damping=1e-6)):
            moved = rule(learner, "mse", adapted, x, y)
            outer = torch.stack([tensor.square().sum() for tensor in moved.values()]).sum()
            gradients = torch.autograd.grad(outer, [*adapted.values(), *rule.parameters()])
            assert all(tensor.isfinite().all() for tensor in (*moved.values(), *gradients))


@pytest.mark.parametrize("kind", ["gradient", "gauss-newton"])
def test_first_order_moves_equally_and_differentiates_less(toy, kind: str) -> None:
    """The values stay. The derivative by the start is that of the last tensors alone: the moves are constants."""
    learner, adapted = toy.deep()
    x, y = toy.support(4)
    name = learner.adapted_names[0]
    seen = []
    for first_order in (False, True):
        rule = toy.rules(learner.adapted_names)[kind].double()
        rule.first_order = first_order
        start = {key: tensor.clone().requires_grad_() for key, tensor in adapted.items()}
        moved = rule(learner, "mse", start, x, y)
        seen.append((moved[name], torch.autograd.grad(moved[name].sum(), start[name])[0]))
    torch.testing.assert_close(seen[0][0], seen[1][0], rtol=0, atol=0)
    torch.testing.assert_close(seen[1][1], torch.ones_like(seen[1][1]))
    assert (seen[0][1] - seen[1][1]).abs().max() > 1e-3


def test_every_rule_shrinks_its_steps(toy) -> None:
    """The trainer relies on this when the inner loop diverges."""
    learner, adapted = toy.deep()
    x, y = toy.support(4)
    for rule in toy.rules(learner.adapted_names).values():
        lengths = []
        for _ in range(2):
            moved, _ = rule.double().step(0, learner, "mse", adapted, x, y)
            lengths.append(sum((moved[name] - adapted[name]).square().sum().item() for name in adapted))
            rule.shrink()
        assert lengths[1] < lengths[0]


@pytest.mark.parametrize(
    ("returned", "seen"),
    [
        (None, "returned None, but"),
        ({}, "returned a dict, but"),
        (({}, torch.zeros(()), 1), "returned a tuple of 3, but"),
        (({"v": torch.zeros(1)}, None), "returned a dict and None, but"),
        (({}, torch.zeros(())), "returned tensors named nothing and a loss, but"),
        (({"v": torch.zeros(2)}, torch.zeros(())), r"returned 'v' of shape \(2,\) in place of \(1,\), but"),
    ],
)
def test_a_step_that_returns_something_else_is_named(returned: Any, seen: str) -> None:
    """With the rule, its file and line, and what is wanted: the code is a user's."""

    class Mine(Rule):
        def step(self, *_: Any) -> Any:
            return returned

    x = torch.zeros(1, 1)
    with pytest.raises(TrainingError, match=rf"rule Mine: step, in .*test_rule.py, line \d+, {seen}.*`return adapted"):
        Mine(1)(lambda adapted, x: x, "mse", {"v": torch.zeros(1)}, x, x)
