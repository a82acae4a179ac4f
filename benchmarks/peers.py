"""The same network and the same adaptation as a robot could run them with torch or with JAX: written by hand, lean.

Each takes what an exported learner holds (normalization, U or its Kronecker factors, v0 and the inner rates), takes and
returns raw units in numpy, and keeps the weights that it folded after an adaptation, as the runtime does.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.gradient import GradientSteps
from msr_runtime.meta.symmetry.reparameterize import fold
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array

Arrays = dict[str, Any]
"""Arrays of torch or of JAX by the name of the weight that they make."""


class Problem:
    """A reparameterized MLP taken apart, and its arithmetic in operators that torch and JAX share.

    Args:
        learner: The learner.
        normalization: Of its inputs and outputs.
        array: Makes an array of the library.
        silu: The activation.
        rates: What its rule learned for each adapted tensor, by name.

    """

    def __init__(
        self,
        learner: Learner,
        normalization: Normalization,
        array: Callable[[np.ndarray], Any],
        silu: Callable,
        rates: Mapping[str, torch.Tensor],
    ) -> None:
        parameters = {name: array(tensor.detach().numpy()) for name, tensor in learner.network.named_parameters()}
        rates = {name: array(rate.detach().numpy()) for name, rate in rates.items()}
        names = {name.removesuffix(".original").replace("parametrizations.", ""): name for name in rates}
        self.shapes = {name: tuple(weight.shape) for name, weight in fold(learner.network).items() if name in names}
        self.v0: Arrays = {short: parameters[name] for short, name in names.items()}
        self.rates: Arrays = {short: rates[name] for short, name in names.items()}
        self.factors: dict[str, Arrays] = {
            short: {
                key: parameters[path]
                for key in "UAB"
                if (path := name.removesuffix("original") + f"0.{key}") in parameters
            }
            for short, name in names.items()
        }
        self.depth, self.silu = learner.config.depth, silu
        numbers = {name: array(np.asarray(values, np.float32)) for name, values in normalization.model_dump().items()}
        self.input, self.output = (
            (numbers[f"{side}_center"], numbers[f"{side}_scale"]) for side in ("input", "output")
        )

    def fold(self, v: Arrays) -> Arrays:
        """Multiply U out: filter parameters to weights."""
        return {name: self._weight(self.factors[name], each, self.shapes[name]) for name, each in v.items()}

    def _weight(self, factors: Arrays, v: Any, shape: tuple[int, ...]) -> Any:
        if "U" in factors:
            return (v[None] @ factors["U"].T).reshape(shape)
        return sum(a @ v @ b.T for a, b in zip(factors["A"], factors["B"], strict=True))

    def predict(self, weights: Arrays, x: Any) -> Any:
        """Raw x `(batch, x)` to raw y `(batch, y)`."""
        center, scale = self.output
        return self._network(weights, x) * scale + center

    def loss(self, v: Arrays, x: Any, y: Any) -> Any:
        """The mean squared error of the support, on normalized outputs."""
        center, scale = self.output
        return ((self._network(self.fold(v), x) - (y - center) / scale) ** 2).mean()

    def _network(self, weights: Arrays, x: Any) -> Any:
        center, scale = self.input
        x = (x - center) / scale
        for layer in range(self.depth + 1):
            x = x @ weights[f"layers.{layer}.weight"].T + weights[f"layers.{layer}.bias"]
            x = self.silu(x) if layer < self.depth else x
        return x

    def moved(self, v: Arrays, gradients: Arrays) -> Arrays:
        """One gradient step on the filter parameters."""
        return {name: v[name] - self.rates[name] * gradients[name] for name in v}


def _rates(learner: Learner) -> Mapping[str, torch.Tensor]:
    assert isinstance(learner.rule, GradientSteps)
    return learner.rule.rates(0)


class TorchPeer:
    """Torch, eager or compiled: autograd for the gradient, no graph kept beyond a step."""

    def __init__(self, learner: Learner, normalization: Normalization, *, compiled: bool) -> None:
        self.problem = Problem(learner, normalization, torch.from_numpy, torch.nn.functional.silu, _rates(learner))
        gradient = torch.func.grad(self.problem.loss) if compiled else self._eager_gradient

        def adapted(v: Arrays, x: torch.Tensor, y: torch.Tensor, steps: int) -> Arrays:
            for _ in range(steps):
                v = self.problem.moved(v, gradient(v, x, y))
            return self.problem.fold(v)

        self._adapted = torch.compile(adapted) if compiled else adapted
        self._predict = torch.compile(self.problem.predict) if compiled else self.problem.predict
        with torch.no_grad():
            self.weights = self.problem.fold(self.problem.v0)

    def _eager_gradient(self, v: Arrays, x: torch.Tensor, y: torch.Tensor) -> Arrays:
        leaves = {name: each.detach().requires_grad_() for name, each in v.items()}
        with torch.enable_grad():
            gradients = torch.autograd.grad(self.problem.loss(leaves, x, y), list(leaves.values()))
        return dict(zip(leaves, gradients, strict=True))

    def adapt(self, support_x: Array, support_y: Array, steps: int) -> None:
        """Adapt from v0 on the support `(shots, x)`, `(shots, y)` and let the new weights act."""
        with torch.no_grad():
            support = torch.from_numpy(support_x), torch.from_numpy(support_y)
            self.weights = self._adapted(self.problem.v0, *support, steps)

    def predict(self, x: Array) -> Array:
        """Map `(batch, x)` to `(batch, y)` with the weights that act."""
        with torch.no_grad():
            return self._predict(self.weights, torch.from_numpy(x)).numpy()


class JaxPeer:
    """JAX, jitted whole: all steps of an adaptation are one program, U a constant in it."""

    def __init__(self, learner: Learner, normalization: Normalization) -> None:
        import jax  # pyright: ignore[reportMissingImports]  # an extra of its own: nothing else needs it

        self.problem = Problem(learner, normalization, jax.numpy.asarray, jax.nn.silu, _rates(learner))
        self._wait = jax.block_until_ready

        def adapted(x: Any, y: Any, steps: int) -> Arrays:
            v = self.problem.v0
            for _ in range(steps):
                v = self.problem.moved(v, jax.grad(self.problem.loss)(v, x, y))
            return self.problem.fold(v)

        self._adapted = jax.jit(adapted, static_argnums=2)
        self._predict = jax.jit(self.problem.predict)
        self.weights = self.problem.fold(self.problem.v0)

    def adapt(self, support_x: Array, support_y: Array, steps: int) -> None:
        """Adapt from v0 on the support `(shots, x)`, `(shots, y)` and let the new weights act."""
        self.weights = self._wait(self._adapted(support_x, support_y, steps))

    def predict(self, x: Array) -> Array:
        """Map `(batch, x)` to `(batch, y)` with the weights that act."""
        return np.asarray(self._predict(self.weights, x))
