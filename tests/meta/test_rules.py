"""Adaptation rules do what their textbooks say, and let the outer loop through."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from msr_runtime.errors import TrainingError
from msr_runtime.meta.inner import Tensors
from msr_runtime.meta.learner import LearnerConfig
from msr_runtime.meta.learners import MSR
from msr_runtime.meta.rules import LOSSES, GaussNewton, GradientSteps, Ridge, Rule, SignedSteps
from msr_runtime.meta.solve import ridge, solve, solve_by_products
from msr_runtime.task import Loss

INPUTS, OUTPUTS = 4, 3
ALL_LOSSES: tuple[Loss, ...] = ("mse", "huber", "cross_entropy")


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _identity(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def _linear(k: int) -> tuple[Callable[[Tensors, Tensor], Tensor], Tensor, Tensors]:
    """One layer `W = reshape(U v)`, its U and its v."""
    U = _normal(INPUTS * OUTPUTS, k)
    return lambda adapted, x: x @ (U @ adapted["v"]).reshape(OUTPUTS, INPUTS).mT, U, {"v": _normal(k, seed=1)}


def _deep(loss: Loss = "mse") -> tuple[MSR, Tensors]:
    """A network of two layers, and all that adapts of it, the last layer's bias not being zero."""
    torch.manual_seed(0)
    learner = MSR(LearnerConfig(width=6, depth=1, filters=4), (INPUTS,), (OUTPUTS,), loss).double()
    return learner, {name: tensor.detach() + 0.1 for name, tensor in learner.start().items()}


def _support(shots: int, loss: Loss = "mse", seed: int = 2) -> tuple[Tensor, Tensor]:
    x, y = _normal(shots, INPUTS, seed=seed), 2 * _normal(shots, OUTPUTS, seed=seed + 1)
    return x, y.argmax(1) if loss == "cross_entropy" else y


def _rules(names: tuple[str, ...]) -> dict[str, Rule]:
    return {
        "gradient": GradientSteps(dict.fromkeys(names, 0.1), 2, per_step=True),
        "ridge": Ridge(names, damping=0.05),
        "gauss-newton": GaussNewton(names, 2, damping=0.1),
    }


def _near(seen: Tensors, wanted: Tensors, tolerance: float = 1e-9) -> None:
    assert seen.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(seen[name], wanted[name], rtol=tolerance, atol=tolerance)


class TestSolve:
    @pytest.mark.parametrize("condition", [1.0, 1e3, 1e6, 1e8])
    @pytest.mark.parametrize("size", [1, 5, 60])
    def test_matrix_products_solve_as_a_factorisation_does(self, size: int, condition: float) -> None:
        """To 1e-9 in double precision, whatever the scale, with eigenvalues spread out; to 1e-8 where they are far."""
        turn = torch.linalg.qr(_normal(size, size))[0]
        spread = torch.logspace(0, -np.log10(condition), size, dtype=torch.float64)
        for scale in (1e-6, 1.0, 1e6):
            A, b = scale * (turn * spread) @ turn.mT, _normal(size)
            wanted, seen = torch.linalg.solve(A, b), solve_by_products(A, b, scale * spread.min())
            assert (seen - wanted).norm() <= max(1e-9, 1e-16 * condition) * wanted.norm()
            assert (solve(A, b, spread.min()) - wanted).norm() <= max(1e-9, 1e-16 * condition) * wanted.norm()

    @pytest.mark.parametrize("by_products", [False, True])
    @pytest.mark.parametrize(("n", "k"), [(1, 7), (7, 1), (30, 12), (12, 30), (12, 12)])
    def test_ridge_is_least_squares_with_damping_as_rows(self, n: int, k: int, by_products: bool) -> None:
        """Primal or dual; in float32 to 1e-5 where damping is a thousandth of the largest eigenvalue."""
        rows, targets = _normal(n, k), _normal(n, seed=1)
        damping = 1e-3 * torch.linalg.matrix_norm(rows, 2) ** 2
        stacked = np.vstack([rows, damping.sqrt() * _identity(k)]), np.concatenate([targets, np.zeros(k)])
        wanted = torch.from_numpy(np.linalg.lstsq(*stacked)[0])
        seen = ridge(rows, targets, damping, by_products=by_products)
        torch.testing.assert_close(seen, wanted, rtol=1e-9, atol=1e-9)
        single = ridge(rows.float(), targets.float(), damping.float(), by_products=by_products)
        assert single.dtype == torch.float32
        assert (single - wanted).abs().max() <= 1e-5 * wanted.abs().max()

    def test_products_let_gradients_through(self) -> None:
        """To the rows, the targets and the damping."""
        parts = [
            _normal(4, 3).requires_grad_(),
            _normal(4).requires_grad_(),
            torch.tensor(0.3).double().requires_grad_(),
        ]
        assert torch.autograd.gradcheck(lambda *parts: ridge(*parts, by_products=True), parts)


class TestRidge:
    @pytest.mark.parametrize("shots", [1, 3, 40])
    @pytest.mark.parametrize("k", [2, 8])
    def test_is_the_closed_form(self, k: int, shots: int) -> None:
        """The minimiser of the mean squared error plus damping times the squared length of v's move: numpy's own."""
        forward, U, adapted = _linear(k)
        x, y = _support(shots)
        rule = Ridge(["v"], damping=0.05).double()
        rows = torch.einsum("si,oik->sok", x, U.reshape(OUTPUTS, INPUTS, k)).reshape(-1, k).numpy()
        errors = (y - forward(adapted, x)).reshape(-1).numpy()
        system = rows.T @ rows / len(errors) + rule.damping(0).item() * np.eye(k)
        move = np.linalg.solve(system, rows.T @ errors / len(errors))
        _near(rule(forward, "mse", adapted, x, y), {"v": adapted["v"] + torch.from_numpy(move)})

    def test_without_damping_is_least_squares(self) -> None:
        """With more errors than filter parameters, damping of next to nothing leaves numpy's least squares."""
        forward, U, adapted = _linear(2)
        x, y = _support(9)
        rows = torch.einsum("si,oik->sok", x, U.reshape(OUTPUTS, INPUTS, 2)).reshape(-1, 2)
        wanted = np.linalg.lstsq(rows.numpy(), y.reshape(-1).numpy())[0]
        moved = Ridge(["v"], damping=1e-7).double()(forward, "mse", adapted, x, y)
        torch.testing.assert_close(moved["v"], torch.from_numpy(wanted), rtol=1e-5, atol=1e-5)

    def test_of_the_last_layer_leaves_the_features(self) -> None:
        """What is not named stays; the named tensors reach the minimum, where the damped gradient is zero."""
        learner, adapted = _deep()
        x, y = _support(6)
        last = tuple(name for name in adapted if name.startswith("layers.1."))
        rule = Ridge(last, damping=0.05).double()
        moved = rule(learner, "mse", adapted, x, y)
        assert all((moved[name] is adapted[name]) == (name not in last) for name in adapted)

        def objective(moving: Tensors) -> Tensor:
            length = torch.stack([(moving[name] - adapted[name]).square().sum() for name in last]).sum()
            return nn.functional.mse_loss(learner(adapted | moving, x), y) + rule.damping(0).detach() * length

        gradients = torch.func.grad(objective)({name: moved[name].detach() for name in last})
        _near(gradients, {name: torch.zeros_like(tensor) for name, tensor in gradients.items()})

    def test_refuses_another_loss(self) -> None:
        """Only squared errors have a closed form."""
        forward, _, adapted = _linear(2)
        with pytest.raises(TrainingError, match="minimises 'mse', but the loss is 'huber'"):
            Ridge(["v"])(forward, "huber", adapted, *_support(2))


class TestGaussNewton:
    @pytest.mark.parametrize("k", [2, 8])
    def test_of_a_linear_model_is_ridge(self, k: int) -> None:
        """By either Jacobian: k is below and above the number of outputs."""
        forward, _, adapted = _linear(k)
        x, y = _support(3)
        rules = GaussNewton(["v"], 1, damping=0.1), Ridge(["v"], damping=0.1)
        moved = [rule.double()(forward, "mse", adapted, x, y) for rule in rules]
        _near(moved[0], moved[1], 0)

    @pytest.mark.parametrize("loss", ALL_LOSSES)
    @pytest.mark.parametrize("shots", [2, 30])
    def test_damped_heavily_is_a_gradient_step(self, loss: Loss, shots: int) -> None:
        """Of rate `scale² / damping`, halved where the loss is a whole square: so the residuals have sign and size."""
        learner, adapted = _deep(loss)
        x, y = _support(shots, loss)
        rule = GaussNewton(adapted, 1, damping=1e7).double()
        with torch.no_grad():
            rule.scale_parameters.add_(_normal(len(adapted)))
        rates = {name: scale**2 / rule.damping(0) for name, scale in rule.scales().items()}
        gradients = torch.func.grad(lambda a: LOSSES[loss](learner(a, x), y))(adapted)
        half = 0.5 if loss == "mse" else 1.0
        moved = rule(learner, loss, adapted, x, y)
        for name, tensor in adapted.items():
            wanted = half * rates[name] * gradients[name]
            torch.testing.assert_close(
                (tensor - moved[name]) / wanted.norm(), wanted / wanted.norm(), rtol=0, atol=1e-5
            )

    def test_step_of_cross_entropy_solves_with_the_softmax_hessian(self) -> None:
        """For one linear layer the whole Hessian: Newton's own step, damped."""
        forward, _, adapted = _linear(5)
        x, y = _support(7, "cross_entropy")
        rule = GaussNewton(["v"], 1, damping=0.1).double()

        def mean(v: Tensor) -> Tensor:
            return nn.functional.cross_entropy(forward({"v": v}, x), y)

        hessian = torch.func.jacrev(torch.func.jacrev(mean))(adapted["v"]) + rule.damping(0) * _identity(5)
        wanted = adapted["v"] - torch.linalg.solve(hessian, torch.func.grad(mean)(adapted["v"]))
        _near(rule(forward, "cross_entropy", adapted, x, y), {"v": wanted})

    def test_step_of_huber_solves_with_the_errors_reweighted(self) -> None:
        """Errors beyond 1 count by their square root: one step of iteratively reweighted least squares."""
        forward, U, adapted = _linear(5)
        x, y = _support(7)
        errors = (forward(adapted, x) - y).reshape(-1)
        assert 0 < (errors.abs() > 1).sum() < len(errors)
        rule = GaussNewton(["v"], 1, damping=0.1).double()
        rows = torch.einsum("si,oik->sok", x, U.reshape(OUTPUTS, INPUTS, 5)).reshape(-1, 5)
        weighted = rows / errors.abs().clamp(min=1).unsqueeze(1)
        system = weighted.mT @ rows + rule.damping(0) * len(errors) * _identity(5)
        wanted = adapted["v"] - torch.linalg.solve(system, weighted.mT @ errors)
        _near(rule(forward, "huber", adapted, x, y), {"v": wanted})

    @pytest.mark.parametrize("loss", ALL_LOSSES)
    def test_steps_lower_the_loss_and_the_last_numbers_serve_further_ones(self, loss: Loss) -> None:
        """Each step returns the loss that it began with; a rule of two steps takes six."""
        learner, adapted = _deep(loss)
        x, y = _support(8, loss)
        rule = GaussNewton(adapted, 2, damping=0.3).double()
        losses, here = [], adapted
        for index in range(6):
            here, before = rule.step(index, learner, loss, here, x, y)
            losses.append(before.item())
        assert losses[0] == pytest.approx(LOSSES[loss](learner(adapted, x), y).item())
        assert losses == sorted(losses, reverse=True)
        _near(rule(learner, loss, adapted, x, y, steps=6), here, 0)

    def test_certain_and_wrong_classes_stay_finite(self) -> None:
        """A class of which the network thinks nothing: its probability is zero in float32."""
        forward, _, adapted = _linear(5)
        x, y = 1e4 * _support(4)[0], _support(4, "cross_entropy")[1]
        single = {name: tensor.float() for name, tensor in adapted.items()}
        rule = GaussNewton(["v"], 1)
        moved = rule(
            lambda a, x: forward({"v": a["v"].double()}, x.double()).float(), "cross_entropy", single, x.float(), y
        )
        assert moved["v"].isfinite().all()


class TestEveryRule:
    @pytest.mark.parametrize("kind", ["gradient", "ridge", "gauss-newton"])
    def test_lets_the_outer_loop_through(self, kind: str) -> None:
        """Right gradients, first and second, to U, v0 and the rule's own numbers."""
        learner, adapted = _deep()
        rule = _rules(learner.adapted_names)[kind].double()
        x, y = _support(2)
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

    @pytest.mark.parametrize("loss", ALL_LOSSES)
    def test_vmap_over_tasks_equals_a_loop_over_tasks(self, loss: Loss) -> None:
        """Also traced into one graph, bit for bit, as the outer loop runs it."""
        learner, adapted = _deep(loss)
        supports = [_support(3, loss, seed=seed) for seed in (2, 5)]
        x, y = (torch.stack(parts) for parts in zip(*supports, strict=True))
        for kind, rule in _rules(learner.adapted_names).items():
            if kind == "ridge" and loss != "mse":
                continue
            rule.double()

            together = vmap(partial(rule, learner, loss, adapted))
            for task, support in enumerate(supports):
                alone = rule(learner, loss, adapted, *support)
                _near({name: part[task] for name, part in together(x, y).items()}, alone, 1e-10)
            _near(make_fx(together)(x, y)(x, y), together(x, y), 0)

    @pytest.mark.parametrize("loss", ALL_LOSSES)
    def test_does_not_depend_on_how_often_the_support_is_repeated(self, loss: Loss) -> None:
        """A mean loss says the same of a support and of its copies: an update off by the batch size fails here."""
        learner, adapted = _deep(loss)
        x, y = _support(2, loss)
        for kind, rule in _rules(learner.adapted_names).items():
            if kind == "ridge" and loss != "mse":
                continue
            moved = [rule.double()(learner, loss, adapted, torch.cat([x] * n), torch.cat([y] * n)) for n in (1, 2, 20)]
            _near(moved[1], moved[0])
            _near(moved[2], moved[0])

    def test_stays_finite_with_one_sample_and_with_copies_of_it(self) -> None:
        """In float32, as do the gradients of the outer loop, damped by next to nothing."""
        learner, adapted = _deep()
        learner.float()
        adapted = {name: tensor.float().requires_grad_() for name, tensor in adapted.items()}
        for shots in (1, 7):
            x, y = (part[:1].expand(shots, -1).float() for part in _support(1))
            for rule in (*_rules(learner.adapted_names).values(), GaussNewton(adapted, 3, damping=1e-6)):
                moved = rule(learner, "mse", adapted, x, y)
                outer = torch.stack([tensor.square().sum() for tensor in moved.values()]).sum()
                gradients = torch.autograd.grad(outer, [*adapted.values(), *rule.parameters()])
                assert all(tensor.isfinite().all() for tensor in (*moved.values(), *gradients))

    @pytest.mark.parametrize("kind", ["gradient", "gauss-newton"])
    def test_first_order_moves_equally_and_differentiates_less(self, kind: str) -> None:
        """Values stay; the start is seen through the last tensors alone, as if its moves were constants."""
        learner, adapted = _deep()
        x, y = _support(4)
        name = learner.adapted_names[0]
        seen = []
        for first_order in (False, True):
            rule = _rules(learner.adapted_names)[kind].double()
            rule.first_order = first_order
            start = {key: tensor.clone().requires_grad_() for key, tensor in adapted.items()}
            moved = rule(learner, "mse", start, x, y)
            seen.append((moved[name], torch.autograd.grad(moved[name].sum(), start[name])[0]))
        torch.testing.assert_close(seen[0][0], seen[1][0], rtol=0, atol=0)
        torch.testing.assert_close(seen[1][1], torch.ones_like(seen[1][1]))
        assert (seen[0][1] - seen[1][1]).abs().max() > 1e-3

    def test_shrinks_its_steps(self) -> None:
        """What the trainer falls back on when the inner loop diverges."""
        learner, adapted = _deep()
        x, y = _support(4)
        for rule in _rules(learner.adapted_names).values():
            lengths = []
            for _ in range(2):
                moved, _ = rule.double().step(0, learner, "mse", adapted, x, y)
                lengths.append(sum((moved[name] - adapted[name]).square().sum().item() for name in adapted))
                rule.shrink()
            assert lengths[1] < lengths[0]

    def test_gradient_steps_have_the_rates_of_their_step_and_signed_ones_of_their_number(self) -> None:
        """Against steps written by hand; the third of two takes the second's rate."""
        learner, adapted = _deep()
        x, y = _support(4)
        rule = GradientSteps(dict.fromkeys(adapted, 0.1), 2, per_step=True).double()
        with torch.no_grad():
            rule.rate_parameters[1].sub_(1)
        signed = SignedSteps({name: 0.1 * torch.randn_like(tensor) for name, tensor in adapted.items()}, 3)
        for each in (rule, signed):
            here = adapted
            for index in (0, 1, 1):
                gradients = torch.func.grad(lambda a: LOSSES["mse"](learner(a, x), y))(here)
                here = {name: tensor - each.rates(index)[name] * gradients[name] for name, tensor in here.items()}
            _near(each(learner, "mse", adapted, x, y, steps=3), here, 1e-12)
        assert rule.rates(1)[learner.adapted_names[0]] < 0.5 * rule.rates(0)[learner.adapted_names[0]]
        signed.shrink()
        assert min(float(rates.detach().min()) for rates in signed.rates(0).values()) < 0

    def test_refuses_numbers_that_make_no_rule(self) -> None:
        """No step, nothing to move, a rate or a damping that is not positive."""
        with pytest.raises(TrainingError, match="has 0 steps"):
            GradientSteps({"v": 0.1}, 0)
        with pytest.raises(TrainingError, match="given no tensor"):
            GaussNewton([], 1)
        with pytest.raises(TrainingError, match="starts at 0, but must be above 0"):
            Ridge(["v"], damping=0.0)
