"""Adaptation rules: how a support set moves the adapted tensors, by numbers that the outer loop learns.

Each is a small subclass of `Rule`: a pure function over `torch.func` of what it is given and of its own parameters.
"""

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from msr_runtime.errors import TrainingError
from msr_runtime.meta.inner import Tensors, inner_step
from msr_runtime.meta.solve import ridge
from msr_runtime.task import Loss

Forward = Callable[[Tensors, Tensor], Tensor]
"""The adapted tensors and x `(samples, ...)` to the network's outputs `(samples, y)`, each sample by itself."""

LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": nn.functional.mse_loss,
    "huber": nn.functional.huber_loss,
    "cross_entropy": nn.functional.cross_entropy,
}


Index = int | Tensor
"""Which of a rule's steps, from 0; an int64 tensor `(1,)` where a graph is traced for all of them."""


class Rule(nn.Module):
    """One way to adapt: `rule(forward, loss, adapted, support_x, support_y)` gives the tensors moved.

    A subclass writes one step. A rule has numbers for as many steps as it was made with; further ones take the last's.
    """

    def __init__(self, steps: int, *, first_order: bool = False) -> None:
        super().__init__()
        if steps < 1:
            raise TrainingError(f"the rule has {steps} steps, but at least 1 is needed")
        self.steps, self.first_order = steps, first_order

    @property
    def own_steps(self) -> int:
        """For how many steps the rule has numbers of their own: 1 if all its steps are alike."""
        return self.steps

    def step(
        self, index: Index, forward: Forward, loss: Loss, adapted: Tensors, support_x: Tensor, support_y: Tensor
    ) -> tuple[Tensors, Tensor]:
        """Take the step of that index, from 0.

        Args:
            index: Which of the rule's steps.
            forward: The network.
            loss: The name of the loss, a mean over samples and outputs (over samples, for classes).
            adapted: Name to tensor.
            support_x: `(shots, x)`.
            support_y: `(shots, y)`; for classes integers `(shots,)`.

        Returns:
            The moved tensors and the loss before the step.

        """
        raise NotImplementedError

    def forward(
        self,
        forward: Forward,
        loss: Loss,
        adapted: Tensors,
        support_x: Tensor,
        support_y: Tensor,
        steps: int | None = None,
    ) -> Tensors:
        """Take all steps, or as many as `steps` says; vmap gives several tasks. See `step`."""
        for index in range(self.steps if steps is None else steps):
            adapted, _ = self.step(index, forward, loss, adapted, support_x, support_y)
        return adapted

    def shrink(self) -> None:
        """Make every step smaller: what the outer loop does when the inner loop diverges."""
        raise NotImplementedError

    def portable(self) -> "Rule":
        """The same rule, on the same parameters, in operators that ONNX has and with any number of shots."""
        return self


class GradientSteps(Rule):
    """`p - rate * dloss/dp`, at one learned rate a tensor, or one a tensor and step (MAML; MAML++ for the latter).

    Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017; Antoniou, Edwards, Storkey, "How to train your
    MAML", 2019. Rates are `softplus` of their parameters: positive without a clamp, which would kill the gradient.

    Args:
        rates: Where the rate of each adapted tensor starts, by its name.
        steps: The number of steps.
        per_step: Learn the rates of each step by themselves.
        first_order: Treat the gradients as constants in the outer loop.

    """

    def __init__(
        self, rates: Mapping[str, float], steps: int, *, per_step: bool = False, first_order: bool = False
    ) -> None:
        super().__init__(steps, first_order=first_order)
        self.names = tuple(rates)
        start = inverse_softplus(torch.tensor(list(rates.values())))
        self.rate_parameters = nn.Parameter(start.repeat(steps if per_step else 1, 1))

    @property
    def own_steps(self) -> int:
        """One for each row of rates."""
        return len(self.rate_parameters)

    def rates(self, index: Index) -> Tensors:
        """The rates of the step of that index, by the names of the adapted tensors, scalars."""
        row = _at(self.rate_parameters, index)
        return dict(zip(self.names, nn.functional.softplus(row).unbind(), strict=True))

    def step(
        self, index: Index, forward: Forward, loss: Loss, adapted: Tensors, support_x: Tensor, support_y: Tensor
    ) -> tuple[Tensors, Tensor]:
        """Take one gradient step, see `Rule.step`."""

        def support_loss(adapted: Tensors) -> Tensor:
            return LOSSES[loss](forward(adapted, support_x), support_y)

        return inner_step(support_loss, adapted, self.rates(index), first_order=self.first_order)

    def shrink(self) -> None:
        """Make every rate a tenth smaller."""
        _rescale(self.rate_parameters, 0.9)


class SignedSteps(GradientSteps):
    """Gradient steps at one learned rate a number, of either sign (Li et al., "Meta-SGD", 2017).

    Args:
        rates: Where the rates of each adapted tensor start, by its name, of the tensor's own shape.
        steps: The number of steps.
        first_order: Treat the gradients as constants in the outer loop.

    """

    def __init__(self, rates: Mapping[str, Tensor], steps: int, *, first_order: bool = False) -> None:
        Rule.__init__(self, steps, first_order=first_order)
        self.names = tuple(rates)
        self.rate_parameters = nn.ParameterList(rates.values())

    @property
    def own_steps(self) -> int:
        """One: all steps are alike."""
        return 1

    def rates(self, index: Index) -> Tensors:  # noqa: ARG002
        """The rates, the same in every step, by the names of the adapted tensors."""
        return dict(zip(self.names, self.rate_parameters, strict=True))

    def shrink(self) -> None:
        """Make every rate a tenth smaller."""
        with torch.no_grad():
            for rates in self.rate_parameters:
                rates.mul_(0.9)


class GaussNewton(Rule):
    """Damped Gauss-Newton: each step minimises the loss of the network linearised in the tensors that move.

    With residuals r, n of them, and their Jacobian J with respect to the moving tensors, each column times the learned
    scale of its tensor, a step moves by `scale * z`, where z minimises `|r + J z|² + damping * n |z|²`. One damping a
    step and one scale a tensor are learned, `softplus` of their parameters; scales say which tensors move first.

    The residuals are the errors under MSE, reweighted errors under Huber, and for cross entropy Pearson residuals,
    whose JᵀJ is the generalised Gauss-Newton matrix. As the losses are means, n is what they divide by (for classes,
    the shots): a damping means the same at any number of shots.

    Source: Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent", 2002; Holland and
    Welsch, "Robust Regression Using Iteratively Reweighted Least-Squares", 1977.

    Args:
        names: The adapted tensors that move; others stay as they are.
        steps: The number of steps, each from where the one before came to.
        damping: Where the dampings start, above zero, in squared residuals for a unit of z.
        first_order: Treat Jacobian and residuals as constants in the outer loop.

    """

    def __init__(self, names: Iterable[str], steps: int, *, damping: float = 0.3, first_order: bool = False) -> None:
        super().__init__(steps, first_order=first_order)
        self.names = tuple(names)
        if not self.names:
            raise TrainingError("the rule is given no tensor to move; name at least one of the adapted tensors")
        self.damping_parameters = nn.Parameter(inverse_softplus(torch.full((steps,), damping)))
        self.scale_parameters = nn.Parameter(inverse_softplus(torch.ones(len(self.names))))
        self.by_products = False

    def damping(self, index: Index) -> Tensor:
        """The damping of the step of that index, a scalar."""
        return nn.functional.softplus(_at(self.damping_parameters, index))

    def scales(self) -> Tensors:
        """The scales by the names of the tensors that move, scalars."""
        return dict(zip(self.names, nn.functional.softplus(self.scale_parameters).unbind(), strict=True))

    def step(
        self, index: Index, forward: Forward, loss: Loss, adapted: Tensors, support_x: Tensor, support_y: Tensor
    ) -> tuple[Tensors, Tensor]:
        """Take one Gauss-Newton step, see `Rule.step`."""
        residual, scales = RESIDUALS[loss], self.scales()
        moving = {name: adapted[name] for name in self.names}
        outputs = forward(adapted, support_x)

        def residuals(moving: Tensors, x: Tensor, y: Tensor, outputs: Tensor) -> Tensor:
            return residual(forward(adapted | moving, x), outputs, y)

        size = sum(tensor.numel() for tensor in moving.values())
        jacobian = _jacobian_backwards if outputs[0].numel() <= size else _jacobian_forwards
        parts = jacobian(residuals, moving, (support_x, support_y, outputs))
        targets = residual(outputs, outputs, support_y).flatten()
        if self.first_order:
            parts, targets = {name: part.detach() for name, part in parts.items()}, targets.detach()
        rows = torch.cat([scales[name] * part for name, part in parts.items()], dim=1)
        damping = self.damping(index) * support_y.numel()
        z = ridge(rows, targets, damping, by_products=self.by_products)
        moves = zip(moving.items(), z.split([part.shape[1] for part in parts.values()]), strict=True)
        moved = {name: tensor - scales[name] * move.reshape(tensor.shape) for (name, tensor), move in moves}
        return adapted | moved, LOSSES[loss](outputs, support_y)

    def shrink(self) -> None:
        """Damp every step twice as much; a smaller scale alone would hardly shorten a step that is damped little."""
        _rescale(self.damping_parameters, 2.0)

    def portable(self) -> "GaussNewton":
        """The same rule with its systems solved by matrix products."""
        twin = copy.copy(self)
        twin.by_products = True
        return twin


class Ridge(GaussNewton):
    """Ridge regression in the tensors that move: under MSE and linear in them, the exact minimiser in one step.

    It is exact for one linear layer `W = reshape(U v)`, and for the last layer of a deep network, whose features stay
    as they are when it is the only one named (Bertinetto et al., "Meta-learning with Differentiable Closed-Form
    Solvers", 2019).

    Args:
        names: The adapted tensors that move.
        damping: Where the damping starts, in squared errors for a unit of a tensor.
        first_order: Treat features and errors as constants in the outer loop.

    """

    def __init__(self, names: Iterable[str], *, damping: float = 0.001, first_order: bool = False) -> None:
        super().__init__(names, steps=1, damping=damping, first_order=first_order)

    def step(
        self, index: Index, forward: Forward, loss: Loss, adapted: Tensors, support_x: Tensor, support_y: Tensor
    ) -> tuple[Tensors, Tensor]:
        """Move to the minimum, see `Rule.step`.

        Raises:
            TrainingError: the loss is not MSE.

        """
        if loss != "mse":
            raise TrainingError(f"ridge regression minimises 'mse', but the loss is '{loss}'; take Gauss-Newton steps")
        return super().step(index, forward, loss, adapted, support_x, support_y)


def _at(numbers: Tensor, index: Index) -> Tensor:
    """The numbers of the step of that index, or the last step's."""
    last = len(numbers) - 1
    return numbers[min(index, last)] if isinstance(index, int) else numbers.index_select(0, index.clamp(max=last))[0]


def _jacobian_backwards(residuals: Callable[..., Tensor], moving: Tensors, support: tuple[Tensor, ...]) -> Tensors:
    """By each tensor, the Jacobian `(shots outputs, numbers)` of `residuals`; one pass for each number of an output.

    Sample by sample, because one sample's outputs do not depend on another's inputs: all at once, most would be zeros.
    """
    outputs = support[-1][0].numel()
    unit = torch.eye(outputs, dtype=support[-1].dtype, device=support[-1].device)

    def of_sample(*sample: Tensor) -> Tensors:
        alone = [part.unsqueeze(0) for part in sample]
        pull_back = vjp(lambda moving: residuals(moving, *alone).flatten(), moving)[1]
        return vmap(pull_back)(unit)[0]

    return {name: part.flatten(0, 1).flatten(1) for name, part in vmap(of_sample)(*support).items()}


def _jacobian_forwards(residuals: Callable[..., Tensor], moving: Tensors, support: tuple[Tensor, ...]) -> Tensors:
    """The same Jacobian, one pass for each number that moves.

    Pulling back is linear, and what pulls that back pushes forwards: no forward-mode rules are needed, which torch
    lacks for some operators and compiles for others.
    """
    sizes = [tensor.numel() for tensor in moving.values()]
    unit = torch.eye(sum(sizes), dtype=support[-1].dtype, device=support[-1].device)
    pull_back = vjp(lambda moving: residuals(moving, *support), moving)[1]
    push_forward = vjp(lambda cotangent: pull_back(cotangent)[0], torch.zeros_like(support[-1]))[1]

    def along(direction: Tensor) -> Tensor:
        parts = zip(moving.items(), direction.split(sizes), strict=True)
        return push_forward({name: part.reshape(tensor.shape) for (name, tensor), part in parts})[0].flatten()

    return dict(zip(moving, vmap(along, out_dims=1)(unit).split(sizes, dim=1), strict=True))


def _error(outputs: Tensor, _held: Tensor, y: Tensor) -> Tensor:
    return outputs - y


def _reweighted_error(outputs: Tensor, held: Tensor, y: Tensor) -> Tensor:
    return (outputs - y) / (held - y).abs().clamp(min=1).sqrt()


def _pearson_residual(outputs: Tensor, held: Tensor, y: Tensor) -> Tensor:
    """With p the held probabilities, L = diag(√p) - p √pᵀ is a root of the softmax's Hessian, diag(p) - p pᵀ."""
    root = (0.5 * held.log_softmax(-1).clamp(min=-60)).exp()
    change = outputs - held
    hit = (y.unsqueeze(-1) == torch.arange(outputs.shape[-1], device=y.device)).to(root.dtype)
    return root * (change - (root.square() * change).sum(-1, keepdim=True)) + root - hit / root


RESIDUALS: dict[Loss, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mse": _error,
    "huber": _reweighted_error,
    "cross_entropy": _pearson_residual,
}


def inverse_softplus(value: Tensor) -> Tensor:
    """The parameter of which `value`, above zero, is the softplus; without overflow.

    Raises:
        TrainingError: a value is not above zero.

    """
    if not (value > 0).all():
        raise TrainingError(f"a rate or damping starts at {value.min():g}, but must be above 0")
    return value + torch.log(-torch.expm1(-value))


def _rescale(parameter: nn.Parameter, factor: float) -> None:
    with torch.no_grad():
        parameter.copy_(inverse_softplus(factor * nn.functional.softplus(parameter)))
