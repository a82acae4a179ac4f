"""Damped Gauss-Newton steps, and ridge regression as their linear case.

A gradient step knows only the slope of the loss. A Gauss-Newton step replaces the network by its tangent, which is
linear in the numbers that move, and goes to the minimum for this tangent. With residuals r (outputs minus targets, for
squared errors) and their Jacobian J (how each residual changes with each moving number), the step z

    minimizes   |r + J z|² + damping * n * |z|²
    and solves  (JᵀJ + damping * n * I) z = -Jᵀ r

The tangent is a good copy of the network only near the start. The damping keeps z short, like a trust region: the
larger it is, the shorter and the closer to a gradient step.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from msr_runtime.errors import TrainingError
from msr_runtime.meta.rules.jacobian import Jacobian, jacobian_backwards, jacobian_forwards
from msr_runtime.meta.rules.residuals import RESIDUALS
from msr_runtime.meta.rules.rule import LOSSES, Forward, Index, Rule, Tensors, at_step, inverse_softplus, rescale
from msr_runtime.meta.rules.solve import gram, ridge
from msr_runtime.task import Loss


class GaussNewton(Rule):
    """Damped Gauss-Newton: each step minimizes the loss of the network linearized in the tensors that move.

    J is the Jacobian of the residuals r with respect to the moving tensors, with each column multiplied by the learned
    scale of its tensor. A step moves by `scale * z`, where z minimizes `|r + J z|² + damping * n |z|²`. One damping per
    step and one scale per tensor are learned, each the `softplus` of its parameter. The scales say which tensors move
    first.

    The residuals depend on the loss. For MSE they are the errors. For Huber they are reweighted errors. For cross
    entropy they are Pearson residuals, whose JᵀJ is the generalized Gauss-Newton matrix. n is the number by which the
    mean loss divides: shots times outputs, or the shots for classes. So a damping means the same at any number of
    shots.

    Source: Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent", 2002; Holland and
    Welsch, "Robust Regression Using Iteratively Reweighted Least-Squares", 1977.

    Args:
        names: The adapted tensors that move; others stay as they are.
        steps: The number of steps. Each starts where the last one ended.
        damping: Where the dampings start, above 0, in squared residuals per unit of z.
        first_order: Treat Jacobian and residuals as constants in the outer loop.

    Raises:
        TrainingError: `names` is empty, `steps` is below 1, or `damping` is not above 0.

    Example:
        >>> import torch
        >>> from msr_runtime.meta.rules import GaussNewton
        >>> rule = GaussNewton(["v"], steps=1, damping=1e-4)
        >>> x, y = torch.ones(4, 1), torch.full((4, 1), 2.0)
        >>> moved = rule(lambda adapted, x: x * adapted["v"], "mse", {"v": torch.zeros(1)}, x, y)
        >>> round(moved["v"].item(), 2)  # one step from 0 to the minimum
        2.0

    """

    def __init__(self, names: Iterable[str], steps: int, *, damping: float = 0.3, first_order: bool = False) -> None:
        super().__init__(steps, first_order=first_order)
        self.names = tuple(names)
        if not self.names:
            raise TrainingError(
                "the rule is given no tensor to move, but at least one is wanted; pass the names of adapted tensors "
                "(most likely the method adapts nothing)"
            )
        self.damping_parameters = nn.Parameter(inverse_softplus(torch.full((steps,), damping)))
        self.scale_parameters = nn.Parameter(inverse_softplus(torch.ones(len(self.names))))
        self.by_products = False

    def damping(self, index: Index) -> Tensor:
        """The damping of step `index`, a scalar."""
        return nn.functional.softplus(at_step(self.damping_parameters, index))

    def scales(self) -> Tensors:
        """Name of a moving tensor to its scale, a scalar."""
        return dict(zip(self.names, nn.functional.softplus(self.scale_parameters).unbind(), strict=True))

    def step(
        self, index: Index, forward: Forward, loss: Loss, adapted: Tensors, support_x: Tensor, support_y: Tensor
    ) -> tuple[Tensors, Tensor]:
        """Take one Gauss-Newton step. See `Rule.step`."""
        scales = self.scales()
        rows, targets, before = self.linearize(forward, loss, adapted, scales, support_x, support_y)
        # The losses are means. Times n, the damping weighs the same against any number of shots.
        damping = self.damping(index) * support_y.numel()
        # `ridge` minimizes |J z - r|², so its z has the opposite sign and is subtracted in `move`.
        z = ridge(rows, targets, damping, by_products=self.by_products)
        return self.move(adapted, scales, z), before

    def sums(
        self,
        forward: Forward,
        loss: Loss,
        adapted: Tensors,
        support_x: Tensor,
        support_y: Tensor,
        *,
        backwards: Jacobian = jacobian_backwards,
        dtype: torch.dtype = torch.float64,
    ) -> tuple[Tensor, Tensor]:
        """What a step needs of some samples, for a robot that has many: the sums of all parts of them.

        The arguments are those of `step`, `backwards` of `linearize`, and `dtype` of `gram`.

        Returns:
            The upper triangle of JᵀJ beside Jᵀr `(K, K + 1)`, float64, and the mean loss of the samples.

        """
        scales = self.scales()
        rows, targets, before = self.linearize(
            forward, loss, adapted, scales, support_x, support_y, backwards=backwards
        )
        return gram(rows, targets, dtype), before

    def linearize(
        self,
        forward: Forward,
        loss: Loss,
        adapted: Tensors,
        scales: Tensors,
        support_x: Tensor,
        support_y: Tensor,
        *,
        backwards: Jacobian = jacobian_backwards,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Linearize the residuals in the tensors that move.

        The arguments are those of `step`, and `scales`: name to the scale of a tensor. `backwards` computes the
        Jacobian where a sample has fewer outputs than numbers move.

        Returns:
            J with scaled columns `(n, K)`, the residuals r `(n,)`, and the loss, a scalar.

        """
        residual = RESIDUALS[loss]
        moving = {name: adapted[name] for name in self.names}
        outputs = forward(adapted, support_x)

        # `outputs` is an argument, so it is a constant here: reweighting depends only on where the step starts.
        def residuals(moving: Tensors, x: Tensor, y: Tensor, outputs: Tensor) -> Tensor:
            return residual(forward(adapted | moving, x), outputs, y)

        size = sum(tensor.numel() for tensor in moving.values())
        # Backwards costs one pass per output of a sample, forwards one per moving number: take the cheaper way.
        jacobian = backwards if outputs[0].numel() <= size else jacobian_forwards
        parts = jacobian(residuals, moving, (support_x, support_y, outputs))
        targets = residual(outputs, outputs, support_y).flatten()
        if self.first_order:
            parts, targets = {name: part.detach() for name, part in parts.items()}, targets.detach()
        rows = torch.cat([scales[name] * part for name, part in parts.items()], dim=1)
        return rows, targets, LOSSES[loss](outputs, support_y)

    def move(self, adapted: Tensors, scales: Tensors, z: Tensor) -> Tensors:
        """Subtract z `(K,)` from the tensors that move, each part times the scale of its tensor."""
        parts = z.split([adapted[name].numel() for name in self.names])
        moved = {
            name: adapted[name] - scales[name] * part.reshape(adapted[name].shape)
            for name, part in zip(self.names, parts, strict=True)
        }
        return adapted | moved

    def shrink(self) -> None:
        """Double the damping of every step. A smaller scale alone would hardly shorten a step with little damping."""
        rescale(self.damping_parameters, 2.0)

    def portable(self) -> "GaussNewton":
        """The same rule, with its linear systems solved by matrix products alone: ONNX has no solver."""
        # A shallow copy shares the parameters: the twin is the same rule with another solver.
        twin = copy.copy(self)
        twin.by_products = True
        return twin


class Ridge(GaussNewton):
    """Ridge regression in the tensors that move. If the loss is MSE and the network is linear in them, one step is
    exact.

    It is exact for one linear layer `W = reshape(U v)`. It is also exact for the last layer of a deep network, if that
    layer alone is named, because its features then stay the same (Bertinetto et al., "Meta-learning with Differentiable
    Closed-Form Solvers", 2019).

    Args:
        names: The adapted tensors that move.
        damping: Where the damping starts, above 0, in squared errors per unit of a tensor.
        first_order: Treat features and errors as constants in the outer loop.

    """

    def __init__(self, names: Iterable[str], *, damping: float = 0.001, first_order: bool = False) -> None:
        super().__init__(names, steps=1, damping=damping, first_order=first_order)

    def linearize(
        self,
        forward: Forward,
        loss: Loss,
        adapted: Tensors,
        scales: Tensors,
        support_x: Tensor,
        support_y: Tensor,
        *,
        backwards: Jacobian = jacobian_backwards,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Linearize the errors. See `GaussNewton.linearize`.

        Raises:
            TrainingError: The loss is not MSE.

        """
        if loss != "mse":
            raise TrainingError(
                f"ridge regression minimizes 'mse', but the loss is '{loss}'; set rule to 'gauss-newton' or 'gradient'"
            )
        return super().linearize(forward, loss, adapted, scales, support_x, support_y, backwards=backwards)
