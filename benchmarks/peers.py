"""The same network and the same adaptation as a robot could run them with torch or with JAX: written by hand, lean.

Each takes what an exported learner holds (normalization, U or its Kronecker factors, v0, and the numbers that its rule
learned), takes and returns raw units in numpy, and keeps the weights that it folded after an adaptation, as the runtime
does. An inner step reads U twice, as in the runtime: the weights that it begins at are known.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.gauss_newton import GaussNewton
from msr_runtime.meta.rules.gradient import GradientSteps
from msr_runtime.meta.symmetry.reparameterize import fold
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array

Arrays = dict[str, Any]
"""Arrays of torch or of JAX by the name of the weight that they make."""


class Library(NamedTuple):
    """What torch and JAX call differently."""

    array: Callable[[np.ndarray], Any]
    silu: Callable[[Any], Any]
    sigmoid: Callable[[Any], Any]
    concatenate: Callable[..., Any]
    gradient: Callable[[Callable[..., Any]], Callable[..., Arrays]]
    """Of a loss, a function of weights, x and y: its gradient in the weights."""
    solve: Callable[[Any, Any], Any]
    """A symmetric positive definite A `(n, n)` and b `(n,)` to the z with `A z = b`."""


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

    def _network(self, weights: Arrays, x: Any) -> Any:
        center, scale = self.input
        x = (x - center) / scale
        for layer in range(self.depth + 1):
            x = x @ weights[f"layers.{layer}.weight"].T + weights[f"layers.{layer}.bias"]
            x = self.silu(x) if layer < self.depth else x
        return x


class Adaptation(Problem):
    """The inner step of gradient steps, or of Gauss-Newton with a full U.

    Args:
        learner: The learner.
        normalization: Of its inputs and outputs.
        library: Torch or JAX.

    """

    def __init__(self, learner: Learner, normalization: Normalization, library: Library) -> None:
        rule, self.dampings = learner.rule, []
        if isinstance(rule, GaussNewton):
            numbers = rule.scales()
            self.dampings = [rule.damping(index).item() for index in range(rule.steps)]
        else:
            assert isinstance(rule, GradientSteps)
            numbers = rule.rates(0)
        super().__init__(learner, normalization, library.array, library.silu, numbers)
        self.library, self.weights0 = library, self.fold(self.v0)
        self._by_input: Arrays = {}
        if (
            self.dampings
        ):  # U with the input's axis first: it is contracted with the inputs of a layer before the outputs'
            for name, shape in self.shapes.items():
                U = np.asarray(self.factors[name]["U"])
                turned = U.reshape(*shape, -1).transpose(1, 0, 2).reshape(shape[1], -1) if len(shape) == 2 else U
                self._by_input[name] = library.array(np.ascontiguousarray(turned))

    def numbers(self, index: int) -> tuple[Array, ...]:
        """What differs from step to step: the damping `(1,)`, or nothing."""
        # The last damping serves further steps, as in the rule.
        return (np.array(self.dampings[index : index + 1] or self.dampings[-1:], np.float32),) if self.dampings else ()

    def step(self, v: Arrays, weights: Arrays, x: Any, y: Any, *numbers: Any) -> tuple[Arrays, Arrays]:
        """Take a step from v and the weights folded from it, on raw x `(shots, x)`, y `(shots, y)`.

        `numbers` are those of the step. The results are v and the weights after it.
        """
        center, scale = self.output
        y = (y - center) / scale
        moves = self._newton(weights, x, y, *numbers) if numbers else self._gradient(weights, x, y)
        v = {name: each - self.rates[name] * moves[name] for name, each in v.items()}
        return v, self.fold(v)

    def adapted(self, x: Any, y: Any, steps: int) -> Arrays:
        """The weights after so many steps from v0."""
        v, weights = self.v0, self.weights0
        for index in range(steps):
            v, weights = self.step(v, weights, x, y, *map(self.library.array, self.numbers(index)))
        return weights

    def _loss(self, weights: Arrays, x: Any, y: Any) -> Any:
        return ((self._network(weights, x) - y) ** 2).mean()

    def _gradient(self, weights: Arrays, x: Any, y: Any) -> Arrays:
        gradients = self.library.gradient(self._loss)(weights, x, y)
        return {name: self._pulled(self.factors[name], each) for name, each in gradients.items()}

    def _pulled(self, factors: Arrays, gradient: Any) -> Any:
        """The gradient in v, of that in a weight: the transpose of `_weight`."""
        if "U" in factors:
            return (gradient.reshape(1, -1) @ factors["U"])[0]
        return sum(a.T @ gradient @ b for a, b in zip(factors["A"], factors["B"], strict=True))

    def _newton(self, weights: Arrays, x: Any, y: Any, damping: Any) -> Arrays:
        """The z of a Gauss-Newton step, by name: the Jacobian by layers, and the smaller linear system.

        `rows` and `pulled` have the shapes `(shots, outputs, numbers of v)` and `(shots, outputs, units)`.
        """
        shots, outputs, (center, scale) = len(x), y.shape[1], self.input
        inputs, slopes = [(x - center) / scale], []
        for layer in range(self.depth + 1):
            z = inputs[-1] @ weights[f"layers.{layer}.weight"].T + weights[f"layers.{layer}.bias"]
            if layer < self.depth:
                s = self.library.sigmoid(z)
                slopes.append(s * (1 + z * (1 - s)))
                inputs.append(z * s)
        residuals = (z - y).reshape(-1)
        pulled, rows = self.library.array(np.tile(np.eye(outputs, dtype=np.float32), (shots, 1, 1))), {}
        for layer in reversed(range(self.depth + 1)):
            weight, bias = f"layers.{layer}.weight", f"layers.{layer}.bias"
            units = self.shapes[weight][0]
            rows[weight] = pulled @ (inputs[layer] @ self._by_input[weight]).reshape(shots, units, -1)
            rows[bias] = pulled @ self._by_input[bias]
            if layer:
                pulled = (pulled @ weights[weight]) * slopes[layer - 1][:, None]
        J = self.library.concatenate([self.rates[name] * rows[name] for name in self.v0], 2).reshape(
            shots * outputs, -1
        )
        unit = self.library.array(np.eye(shots * outputs, dtype=np.float32))
        z = (self.library.solve(J @ J.T + damping * (shots * outputs) * unit, residuals)[None] @ J)[0]
        ends = np.cumsum([math.prod(each.shape) for each in self.v0.values()]).tolist()
        return {
            name: z[begin:end].reshape(v.shape)
            for (name, v), begin, end in zip(self.v0.items(), [0, *ends], ends, strict=False)
        }


class TorchPeer:
    """Torch, eager or compiled: autograd for the gradient, no graph kept beyond a step.

    Args:
        learner: The learner.
        normalization: Of its inputs and outputs.
        compiled: Compile it, or run it operator by operator.
        device: Where it computes.

    """

    def __init__(self, learner: Learner, normalization: Normalization, *, compiled: bool, device: str = "cpu") -> None:
        self._place = lambda array: torch.from_numpy(array).to(device)
        gradient = torch.func.grad if compiled else self._eager_gradient
        library = Library(self._place, torch.nn.functional.silu, torch.sigmoid, torch.cat, gradient, torch.linalg.solve)
        self.problem = Adaptation(learner, normalization, library)
        self._adapted = torch.compile(self.problem.adapted) if compiled else self.problem.adapted
        self._predict = torch.compile(self.problem.predict) if compiled else self.problem.predict
        self.weights = self.problem.weights0

    @staticmethod
    def _eager_gradient(loss: Callable[..., Any]) -> Callable[..., Arrays]:
        def gradient(weights: Arrays, x: torch.Tensor, y: torch.Tensor) -> Arrays:
            leaves = {name: each.detach().requires_grad_() for name, each in weights.items()}
            with torch.enable_grad():
                gradients = torch.autograd.grad(loss(leaves, x, y), list(leaves.values()))
            return dict(zip(leaves, gradients, strict=True))

        return gradient

    def adapt(self, support_x: Array, support_y: Array, steps: int) -> None:
        """Adapt from v0 on the support `(shots, x)`, `(shots, y)` and let the new weights act."""
        with torch.no_grad():
            self.weights = self._adapted(self._place(support_x), self._place(support_y), steps)

    def predict(self, x: Array) -> Array:
        """Map `(batch, x)` to `(batch, y)` with the weights that act."""
        with torch.no_grad():
            return self._predict(self.weights, self._place(x)).cpu().numpy()


def jax_problem(learner: Learner, normalization: Normalization) -> Adaptation:
    """The problem in JAX. It calls nothing that only JAX's own runtime has, so that others can compile it."""
    import jax  # pyright: ignore[reportMissingImports]  # an extra of its own: nothing else needs it

    jnp = jax.numpy
    logistic = jax.lax.logistic  # jax.nn's is a function call in the exported program
    library = Library(jnp.asarray, lambda z: z * logistic(z), logistic, jnp.concatenate, jax.grad, _eliminated)
    return Adaptation(learner, normalization, library)


def _eliminated(A: Any, b: Any) -> Any:
    """Solve by Gauss-Jordan elimination, written out. Without a change of rows, since A is positive definite."""
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

    table = jnp.concatenate([A, b[:, None]], 1)
    for index, unit in enumerate(np.eye(len(A), dtype=np.float32)):
        column, row = table[:, index : index + 1], table[index : index + 1]
        table = table - (column - unit[:, None]) / row[:, index : index + 1] * row
    return table[:, -1]


class JaxPeer:
    """JAX, jitted whole: all steps of an adaptation are one program, U a constant in it."""

    def __init__(self, learner: Learner, normalization: Normalization) -> None:
        import jax  # pyright: ignore[reportMissingImports]

        self.problem = jax_problem(learner, normalization)
        self._wait = jax.block_until_ready
        self._adapted = jax.jit(self.problem.adapted, static_argnums=2)
        self._predict = jax.jit(self.problem.predict)
        self.weights = self.problem.weights0

    def adapt(self, support_x: Array, support_y: Array, steps: int) -> None:
        """Adapt from v0 on the support `(shots, x)`, `(shots, y)` and let the new weights act."""
        self.weights = self._wait(self._adapted(support_x, support_y, steps))

    def predict(self, x: Array) -> Array:
        """Map `(batch, x)` to `(batch, y)` with the weights that act."""
        return np.asarray(self._predict(self.weights, x))
