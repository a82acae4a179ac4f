"""The recursive rule is the textbook's extended Kalman filter, stays safe for thousands of samples, and can be trained
through.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import jacrev, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from msr_runtime.errors import TrainingError
from msr_runtime.meta.rules.belief import Belief, eliminate
from msr_runtime.meta.rules.recursive import Observation, Recursive, Sample
from msr_runtime.meta.rules.rule import Tensors


def make_rule(toy, names: Iterable[str], **options: Any) -> Recursive:
    """A rule in float64 whose scales and noises all differ."""
    rule = Recursive(names, toy.outputs, **({"gate": None, "scale": 0.4, "noise": 0.2} | options)).double()
    with torch.no_grad():
        factors = rule.variance_scale.log_parameters
        for parameter, seed in ((rule.scale_parameters, 11), (rule.noise_parameters, 12), (factors, 13)):
            parameter.add_(0.3 * toy.normal(len(parameter), seed=seed))
    return rule


def textbook(rule: Recursive, forward, start: Tensors, x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of v after the samples: gains with an inverted matrix, and the covariance in Joseph form."""
    names = rule.names
    sizes = [start[name].numel() for name in names]
    v0 = torch.cat([start[name].flatten() for name in names]).detach()
    scales = torch.cat([rule.scales()[n].detach().expand(size) for n, size in zip(names, sizes, strict=True)])
    prior, noise = torch.diag(scales**2), torch.diag(rule.noise().detach())
    keep = rule.keep()
    a = 1.0 if keep is None else keep.item()

    def of(v: Tensor, x: Tensor) -> Tensor:
        parts = zip(names, v.split(sizes), strict=True)
        return forward(start | {n: part.reshape(start[n].shape) for n, part in parts}, x[None])[0]

    def take(v: Tensor, P: Tensor, x: Tensor, y: Tensor, at: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v, P = v0 + a * (v - v0), a**2 * P + (1 - a**2) * prior
        at = v if at is None else at
        H = jacrev(of)(at, x)
        gain = P @ H.T @ torch.linalg.inv(H @ P @ H.T + noise)
        left = torch.eye(len(v), dtype=v.dtype) - gain @ H
        found = v + gain @ (y - of(at, x) - H @ (v - at))
        return found.detach(), (left @ P @ left.T + gain @ noise @ gain.T).detach()

    v, P = v0, prior
    for count in range(1, len(x) + 1):
        v, P = take(v, P, x[count - 1], y[count - 1])
        if count in (2, 3, 4, 6, 8, 12) and count <= rule.relinearize:
            at, (v, P) = v, (v0, prior)
            for x_, y_ in zip(x[:count], y[:count], strict=True):
                v, P = take(v, P, x_, y_, at)
    return v.numpy(), P.numpy()


def covariance(rule: Recursive, start: Tensors, belief: Belief) -> np.ndarray:
    """The covariance of v in a belief."""
    K = belief.mean.numel()
    C = belief.times(torch.eye(K, dtype=belief.mean.dtype))
    scales = torch.cat([rule.scales()[n].expand(start[n].numel()) for n in rule.names])
    return (scales[:, None] * C * scales).detach().numpy()


class TestFilter:
    @pytest.mark.parametrize("relinearize", [0, 5, 16])
    @pytest.mark.parametrize("time_constant", [None, 4.0])
    def test_is_the_textbook(self, toy, time_constant: float | None, relinearize: int) -> None:
        """Mean and covariance of a deep network's filter, which numpy computes with K x K matrices and an inverse."""
        learner, start = toy.deep()
        x, y = toy.support(12)
        rule = make_rule(toy, start, time_constant=time_constant, relinearize=relinearize)
        belief = rule.believe(learner, "mse", start, x, y)
        v, P = textbook(rule, learner, start, x, y)
        moved = rule(learner, "mse", start, x, y)
        seen = torch.cat([moved[name].flatten() for name in rule.names]).detach().numpy()
        np.testing.assert_allclose(seen, v, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(covariance(rule, start, belief), P, rtol=1e-9, atol=1e-9)

    def test_of_a_linear_layer_is_regression_on_all_samples(self, toy) -> None:
        """One by one or all at once: the same posterior. The order of the samples does not matter."""
        forward, U, start = toy.linear(5)
        x, y = toy.support(9)
        rule = make_rule(toy, ["v"])
        H = torch.einsum("si,oik->sok", x, U.reshape(toy.outputs, toy.inputs, 5)).reshape(-1, 5)
        weights = (1 / rule.noise()).repeat(len(x))
        precision = toy.identity(5) / rule.scales()["v"] ** 2 + H.T @ (weights[:, None] * H)
        errors = (y - forward(start, x)).flatten()
        wanted = start["v"] + torch.linalg.solve(precision, H.T @ (weights * errors))
        toy.near(rule(forward, "mse", start, x, y), {"v": wanted})
        toy.near(rule(forward, "mse", start, x.flip(0), y.flip(0)), {"v": wanted})
        belief = rule.believe(forward, "mse", start, x, y)
        np.testing.assert_allclose(covariance(rule, start, belief), np.linalg.inv(precision.detach()), atol=1e-10)

    def test_predicts_with_the_variance_of_the_textbook(self, toy) -> None:
        """Covariances of the outputs are H P Hᵀ times the learned factor; the likelihood of samples is that of a normal
        distribution.
        """
        forward, U, start = toy.linear(5)
        x, y = toy.support(6)
        queries, wanted_y = toy.support(4, seed=20)
        rule = make_rule(toy, ["v"])
        belief = rule.believe(forward, "mse", start, x, y)
        outputs, covariances, noise = rule.predict(forward, start, belief, queries)
        factor = rule.variance_scale(torch.tensor(6.0).double())
        H = torch.einsum("si,oik->sok", queries, U.reshape(toy.outputs, toy.inputs, 5))
        wanted = H @ torch.from_numpy(covariance(rule, start, belief)) @ H.mT
        torch.testing.assert_close(covariances, factor * wanted, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(noise, factor * rule.noise())
        torch.testing.assert_close(outputs, forward(rule(forward, "mse", start, x, y), queries))
        total = covariances + torch.diag(noise)
        normal = torch.distributions.MultivariateNormal(outputs, total)
        surprise = rule.surprise(forward, start, belief, queries, wanted_y)
        torch.testing.assert_close(surprise, -normal.log_prob(wanted_y).mean() / toy.outputs)

    def test_says_what_it_expected_of_a_sample(self, toy) -> None:
        """The innovation is the error of the prediction, its variance that of the prediction with noise."""
        learner, start = toy.deep()
        x, y = toy.support(5)
        rule = make_rule(toy, start)
        belief = rule.believe(learner, "mse", start, x[:4], y[:4])
        _, seen = rule.learn(learner, start, belief, Sample(x[4], y[4], None))
        outputs, covariances, noise = rule.predict(learner, start, belief, x[4:])
        total = (covariances[0] + torch.diag(noise)) / rule.variance_scale(torch.tensor(4.0).double())
        torch.testing.assert_close(seen.innovation, y[4] - outputs[0])
        torch.testing.assert_close(seen.variance, total.diagonal())
        torch.testing.assert_close(seen.nis, seen.innovation @ torch.linalg.solve(total, seen.innovation))

    def test_moves_what_it_is_given(self, toy) -> None:
        """Tensors that are not named stay, and no steps move nothing."""
        learner, start = toy.deep()
        x, y = toy.support(4)
        last = tuple(name for name in start if name.startswith("layers.1."))
        rule = make_rule(toy, last)
        moved = rule(learner, "mse", start, x, y)
        assert all((moved[name] is start[name]) == (name not in last) for name in start)
        assert rule(learner, "mse", start, x, y, 0) is start


class TestSafety:
    def test_stays_positive_semi_definite_for_thousands_of_samples(self, toy) -> None:
        """In float32, with a ring of rows that overflows and little noise: no variance falls below zero or above the
        prior's, and nothing grows.
        """
        rng = torch.Generator().manual_seed(0)
        rule = Recursive(["v"], 2, memory=8, noise=1e-4, scale=1.0)
        belief = Belief.prior(torch.zeros(1), 12)
        start = {"v": torch.zeros(12)}
        with torch.no_grad():
            for step in range(3000):
                x = torch.randn(24, generator=rng)
                y = x.reshape(2, 12) @ torch.ones(12)
                forward = lambda adapted, x: x.reshape(-1, 2, 12) @ adapted["v"]  # noqa: E731
                belief, _ = rule.learn(forward, start, belief, Sample(x, y, torch.tensor(0.999)))
                if step % 100 == 99:
                    C = belief.times(torch.eye(12)).double()
                    least, *_, most = torch.linalg.eigvalsh((C + C.mT) / 2)
                    assert least > -1e-5
                    assert most < 1 + 1e-5
        assert len(belief.rows) == 16
        assert (belief.mean - 1).abs().max() < 0.05

    def test_a_short_memory_is_less_sure(self, toy) -> None:
        """With a memory of three samples, the covariance is larger than with all, and smaller than the prior's."""
        learner, start = toy.deep()
        x, y = toy.support(9)
        whole = make_rule(toy, start)
        short = make_rule(toy, start, memory=3)
        less, more = (covariance(r, start, r.believe(learner, "mse", start, x, y)) for r in (whole, short))
        prior = covariance(short, start, short.prior(start))
        # `more` comes from other means too, so only its own ordering below the prior is exact
        assert np.linalg.eigvalsh(prior - more).min() > -1e-12
        assert np.trace(less) < np.trace(more)
        assert len(short.believe(learner, "mse", start, x, y).rows) == 3 * toy.outputs

    def test_relaxes_to_the_prior(self, toy) -> None:
        """A long time without samples leaves the start and its prior covariance; a short one goes a part of the way."""
        learner, start = toy.deep()
        rule = make_rule(toy, start)
        belief = rule.believe(learner, "mse", start, *toy.support(6))
        prior, C = (covariance(rule, start, each) for each in (rule.prior(start), belief))
        gone = belief.relaxed(torch.tensor(0.0).double())
        np.testing.assert_allclose(covariance(rule, start, gone), prior, atol=1e-15)
        toy.near(rule.tensors(start, gone.mean), start)
        half = belief.relaxed(torch.tensor(0.5).double())
        np.testing.assert_allclose(covariance(rule, start, half), 0.25 * C + 0.75 * prior, atol=1e-12)
        torch.testing.assert_close(half.mean, belief.mean / 2)

    def test_an_outlier_moves_as_much_as_an_error_at_the_gate(self, toy) -> None:
        """And no more, however far off it is. Within the gate nothing changes."""
        forward = lambda adapted, x: x * adapted["v"]  # noqa: E731
        start, x = {"v": toy.normal(1)}, toy.identity(1)[0]
        gated, plain = (
            Recursive(["v"], 1, gate=gate, scale=0.4, noise=0.2).double().requires_grad_(False) for gate in (2.0, None)
        )
        _, expected = gated.learn(forward, start, gated.prior(start), Sample(x, x, None))
        outputs, deviation = forward(start, x), expected.variance.sqrt()

        def move(rule: Recursive, deviations: float) -> float:
            far = Sample(x, outputs + deviations * deviation, None)
            return rule.learn(forward, start, rule.prior(start), far)[0].mean.item()

        assert move(gated, 1.9) == move(plain, 1.9)
        for far in (2.0, 7.0, -1e6):
            assert move(gated, far) == pytest.approx(math.copysign(move(plain, 2.0), far))

    def test_refuses_classes_and_nothing_to_move(self, toy) -> None:
        """In one sentence that says what to take instead."""
        learner, start = toy.deep("cross_entropy")
        with pytest.raises(TrainingError, match="filters numbers, but the loss is 'cross_entropy'"):
            make_rule(toy, start)(learner, "cross_entropy", start, *toy.support(2, "cross_entropy"))
        with pytest.raises(TrainingError, match="no tensor to move"):
            Recursive([], 2)


class TestDifferentiation:
    @pytest.mark.parametrize("time_constant", [None, 5.0])
    def test_gradients_through_the_recursion(self, toy, time_constant: float | None) -> None:
        """Of the likelihood of other samples, in the start, in the network's other tensors and in the rule's numbers,
        against differences of values.
        """
        learner, start = toy.deep()
        x, y = toy.support(4)
        queries = toy.support(3, seed=30)
        rule = make_rule(toy, start, time_constant=time_constant, gate=2.0, relinearize=4)
        own = dict(rule.named_parameters())

        def loss(*tensors: Tensor) -> Tensor:
            moving = dict(zip(start, tensors[: len(start)], strict=True))
            numbers = dict(zip(own, tensors[len(start) :], strict=True))

            class Likelihood(torch.nn.Module):
                def __init__(self) -> None:
                    super().__init__()
                    self.rule = rule

                def forward(self) -> Tensor:
                    belief = self.rule.believe(learner, "mse", moving, x, y)
                    return self.rule.surprise(learner, moving, belief, *queries)

            named = {f"rule.{name}": tensor for name, tensor in numbers.items()}
            return torch.func.functional_call(Likelihood(), named, ())

        inputs = [tensor.detach().requires_grad_() for tensor in (*start.values(), *own.values())]
        assert torch.autograd.gradcheck(loss, inputs, atol=1e-6, rtol=1e-4)

    def test_first_order_moves_alike_with_another_gradient(self, toy) -> None:
        """Slopes and errors are then constants: only the rule's own numbers have gradients."""
        learner, start = toy.deep()
        x, y = toy.support(4)
        whole, cheap = make_rule(toy, start), make_rule(toy, start, first_order=True)
        toy.near(whole(learner, "mse", start, x, y), cheap(learner, "mse", start, x, y), 0)
        inputs = {name: tensor.detach().requires_grad_() for name, tensor in start.items()}
        means = [rule.believe(learner, "mse", inputs, x, y).mean.sum() for rule in (whole, cheap)]
        through = [torch.autograd.grad(mean, list(inputs.values()), allow_unused=True) for mean in means]
        assert all(gradient is not None for gradient in through[0])
        assert all(gradient is None for gradient in through[1])

    def test_many_tasks_at_once(self, toy) -> None:
        """`vmap` gives what a loop gives."""
        learner, start = toy.deep()
        x, y = (torch.stack(parts) for parts in zip(*(toy.support(4, seed=seed) for seed in (2, 40, 60)), strict=True))
        rule = make_rule(toy, start, time_constant=9.0)
        together = vmap(lambda x, y: rule(learner, "mse", start, x, y))(x, y)
        for task in range(3):
            alone = rule(learner, "mse", start, x[task], y[task])
            toy.near({name: tensor[task] for name, tensor in together.items()}, alone)


def test_an_update_can_be_traced(toy) -> None:
    """A graph traced with one belief gives another belief's update: no branch on a number is frozen in it."""
    learner, start = toy.deep()
    x, y = toy.support(6)
    rule = make_rule(toy, start, gate=1.0)

    def update(belief: Belief, x: Tensor, y: Tensor) -> Observation:
        return rule.learn(learner, start, belief, Sample(x, y, None))[1]

    first = rule.believe(learner, "mse", start, x[:3], y[:3])
    graph = make_fx(update)(first, x[3], y[3])
    for belief, i in ((first, 4), (rule.believe(learner, "mse", start, 9 * x[:3], 9 * y[:3]), 5)):
        for seen, wanted in zip(graph(belief, x[i], y[i]), update(belief, x[i], y[i]), strict=True):
            torch.testing.assert_close(seen, wanted)


def test_elimination_is_the_determinant_and_the_square(toy) -> None:
    """One after another, the variances multiply to the determinant and the errors give the Mahalanobis distance."""
    A = toy.normal(4, 4)
    C, e, r = A @ A.T, toy.normal(4, seed=5), toy.normal(4, seed=6).exp()
    found = eliminate(C, e, r)
    total = C + torch.diag(r)
    assert math.isclose(found.variances.log().sum(), torch.logdet(total), rel_tol=1e-9)
    assert math.isclose((found.errors**2 / found.variances).sum(), e @ torch.linalg.solve(total, e), rel_tol=1e-9)
