"""Gauss-Newton steps and ridge regression do what their textbooks say."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from msr_runtime.errors import TrainingError
from msr_runtime.meta.rules.gauss_newton import GaussNewton, Ridge
from msr_runtime.meta.rules.rule import LOSSES, Tensors
from msr_runtime.task import Loss


class TestRidge:
    @pytest.mark.parametrize("shots", [1, 3, 40])
    @pytest.mark.parametrize("k", [2, 8])
    def test_is_the_closed_form(self, toy, k: int, shots: int) -> None:
        """The minimizer of the mean squared error plus damping times the squared move of v, as numpy finds it."""
        forward, U, adapted = toy.linear(k)
        x, y = toy.support(shots)
        rule = Ridge(["v"], damping=0.05).double()
        rows = torch.einsum("si,oik->sok", x, U.reshape(toy.outputs, toy.inputs, k)).reshape(-1, k).numpy()
        errors = (y - forward(adapted, x)).reshape(-1).numpy()
        system = rows.T @ rows / len(errors) + rule.damping(0).item() * np.eye(k)
        move = np.linalg.solve(system, rows.T @ errors / len(errors))
        toy.near(rule(forward, "mse", adapted, x, y), {"v": adapted["v"] + torch.from_numpy(move)})

    def test_without_damping_is_least_squares(self, toy) -> None:
        """With more errors than filter parameters and almost no damping, v is numpy's least squares solution."""
        forward, U, adapted = toy.linear(2)
        x, y = toy.support(9)
        rows = torch.einsum("si,oik->sok", x, U.reshape(toy.outputs, toy.inputs, 2)).reshape(-1, 2)
        wanted = np.linalg.lstsq(rows.numpy(), y.reshape(-1).numpy())[0]
        moved = Ridge(["v"], damping=1e-7).double()(forward, "mse", adapted, x, y)
        torch.testing.assert_close(moved["v"], torch.from_numpy(wanted), rtol=1e-5, atol=1e-5)

    def test_of_the_last_layer_leaves_the_features(self, toy) -> None:
        """Tensors that are not named stay. The named ones reach the minimum: the damped gradient is zero there."""
        learner, adapted = toy.deep()
        x, y = toy.support(6)
        last = tuple(name for name in adapted if name.startswith("layers.1."))
        rule = Ridge(last, damping=0.05).double()
        moved = rule(learner, "mse", adapted, x, y)
        assert all((moved[name] is adapted[name]) == (name not in last) for name in adapted)

        def objective(moving: Tensors) -> Tensor:
            length = torch.stack([(moving[name] - adapted[name]).square().sum() for name in last]).sum()
            return nn.functional.mse_loss(learner(adapted | moving, x), y) + rule.damping(0).detach() * length

        gradients = torch.func.grad(objective)({name: moved[name].detach() for name in last})
        toy.near(gradients, {name: torch.zeros_like(tensor) for name, tensor in gradients.items()})

    def test_refuses_another_loss(self, toy) -> None:
        """Only squared errors have a closed form."""
        forward, _, adapted = toy.linear(2)
        with pytest.raises(TrainingError, match="minimizes 'mse', but the loss is 'huber'"):
            Ridge(["v"])(forward, "huber", adapted, *toy.support(2))


class TestGaussNewton:
    @pytest.mark.parametrize("k", [2, 8])
    def test_of_a_linear_model_is_ridge(self, toy, k: int) -> None:
        """By either Jacobian: k is below and above the number of outputs."""
        forward, _, adapted = toy.linear(k)
        x, y = toy.support(3)
        rules = GaussNewton(["v"], 1, damping=0.1), Ridge(["v"], damping=0.1)
        moved = [rule.double()(forward, "mse", adapted, x, y) for rule in rules]
        toy.near(moved[0], moved[1], 0)

    @pytest.mark.parametrize("loss", LOSSES)
    @pytest.mark.parametrize("shots", [2, 30])
    def test_damped_heavily_is_a_gradient_step(self, toy, loss: Loss, shots: int) -> None:
        """Its rate is `scale² / damping`, halved for MSE, so the residuals have the right sign and size."""
        learner, adapted = toy.deep(loss)
        x, y = toy.support(shots, loss)
        rule = GaussNewton(adapted, 1, damping=1e7).double()
        with torch.no_grad():
            rule.scale_parameters.add_(toy.normal(len(adapted)))
        rates = {name: scale**2 / rule.damping(0) for name, scale in rule.scales().items()}
        gradients = torch.func.grad(lambda a: LOSSES[loss](learner(a, x), y))(adapted)
        half = 0.5 if loss == "mse" else 1.0
        moved = rule(learner, loss, adapted, x, y)
        for name, tensor in adapted.items():
            wanted = half * rates[name] * gradients[name]
            torch.testing.assert_close(
                (tensor - moved[name]) / wanted.norm(), wanted / wanted.norm(), rtol=0, atol=1e-5
            )

    def test_step_of_cross_entropy_solves_with_the_softmax_hessian(self, toy) -> None:
        """For one linear layer that is the whole Hessian: the step is Newton's own, damped."""
        forward, _, adapted = toy.linear(5)
        x, y = toy.support(7, "cross_entropy")
        rule = GaussNewton(["v"], 1, damping=0.1).double()

        def mean(v: Tensor) -> Tensor:
            return nn.functional.cross_entropy(forward({"v": v}, x), y)

        hessian = torch.func.jacrev(torch.func.jacrev(mean))(adapted["v"]) + rule.damping(0) * toy.identity(5)
        wanted = adapted["v"] - torch.linalg.solve(hessian, torch.func.grad(mean)(adapted["v"]))
        toy.near(rule(forward, "cross_entropy", adapted, x, y), {"v": wanted})

    def test_step_of_huber_solves_with_the_errors_reweighted(self, toy) -> None:
        """Errors above 1 are divided by the root of their size: one step of iteratively reweighted least squares."""
        forward, U, adapted = toy.linear(5)
        x, y = toy.support(7)
        errors = (forward(adapted, x) - y).reshape(-1)
        assert 0 < (errors.abs() > 1).sum() < len(errors)
        rule = GaussNewton(["v"], 1, damping=0.1).double()
        rows = torch.einsum("si,oik->sok", x, U.reshape(toy.outputs, toy.inputs, 5)).reshape(-1, 5)
        weighted = rows / errors.abs().clamp(min=1).unsqueeze(1)
        system = weighted.mT @ rows + rule.damping(0) * len(errors) * toy.identity(5)
        wanted = adapted["v"] - torch.linalg.solve(system, weighted.mT @ errors)
        toy.near(rule(forward, "huber", adapted, x, y), {"v": wanted})

    @pytest.mark.parametrize("loss", LOSSES)
    def test_steps_lower_the_loss_and_the_last_numbers_serve_further_ones(self, toy, loss: Loss) -> None:
        """Each step returns the loss before it. A rule of two steps can take six."""
        learner, adapted = toy.deep(loss)
        x, y = toy.support(8, loss)
        rule = GaussNewton(adapted, 2, damping=0.3).double()
        losses, here = [], adapted
        for index in range(6):
            here, before = rule.step(index, learner, loss, here, x, y)
            losses.append(before.item())
        assert losses[0] == pytest.approx(LOSSES[loss](learner(adapted, x), y).item())
        assert losses == sorted(losses, reverse=True)
        toy.near(rule(learner, loss, adapted, x, y, steps=6), here, 0)

    def test_certain_and_wrong_classes_stay_finite(self, toy) -> None:
        """A class whose probability underflows to zero in float32 gives finite steps."""
        forward, _, adapted = toy.linear(5)
        x, y = 1e4 * toy.support(4)[0], toy.support(4, "cross_entropy")[1]
        single = {name: tensor.float() for name, tensor in adapted.items()}
        rule = GaussNewton(["v"], 1)
        moved = rule(
            lambda a, x: forward({"v": a["v"].double()}, x.double()).float(), "cross_entropy", single, x.float(), y
        )
        assert moved["v"].isfinite().all()

    def test_refuses_no_tensor_and_no_damping(self) -> None:
        """A rule needs something to move, and a positive damping."""
        with pytest.raises(TrainingError, match="given no tensor"):
            GaussNewton([], 1)
        with pytest.raises(TrainingError, match="starts at 0, but must be above 0"):
            Ridge(["v"], damping=0.0)
