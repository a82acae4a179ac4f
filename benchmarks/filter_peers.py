"""The same filter as a robot could run it with torch or with JAX: written by hand, lean, its rows kept in place.

Each takes what an exported learner with the rule `recursive` holds, takes and returns raw units in numpy, and keeps the
weights that it folded after an update, as the runtime does. The sample that holds least gives way, as in the rule.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from peers import Arrays, Problem

from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.recursive import Recursive
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array


class Known(NamedTuple):
    """What a filter knows: m `(K,)`, the rows `(samples, J, K)`, and what each sample holds `(samples,)`."""

    mean: Any
    rows: Any
    held: Any


class FilterProblem(Problem):
    """The network and the filter, in operators that torch and JAX share.

    Args:
        learner: With the rule `recursive`, without a time constant.
        normalization: Of its inputs and outputs.
        array: Makes an array of the library.
        silu: The activation.
        library: `torch` or `jax.numpy`.
        put: Writes rows into one place of an array: `put(array, place, rows)` returns the array.

    """

    def __init__(
        self,
        learner: Learner,
        normalization: Normalization,
        array: Callable[[np.ndarray], Any],
        silu: Callable,
        library: Any,
        put: Callable[[Any, Any, Any], Any],
    ) -> None:
        rule = learner.rule
        assert isinstance(rule, Recursive)
        super().__init__(learner, normalization, array, silu, rule.scales())
        self.library, self.put, self.gate = library, put, rule.gate
        self.noise = array(rule.noise().detach().numpy())
        self.ends = np.cumsum([tensor.numel() for tensor in learner.start().values()]).tolist()
        K, J = self.ends[-1], len(self.noise)
        shapes = Known((K,), (rule.memory, J, K), (rule.memory,))
        self.prior = Known(*(array(np.zeros(shape, np.float32)) for shape in shapes))

    def weights(self, mean: Any) -> Arrays:
        """Fold v0 + scale * m."""
        parts = zip(self.v0.items(), [0, *self.ends], self.ends, strict=False)
        return self.fold({n: v + self.rates[n] * mean[begin:end].reshape(v.shape) for (n, v), begin, end in parts})

    def normalized(self, mean: Any, x: Any) -> Any:
        """The normalized outputs `(y,)` of one x `(x,)` at m."""
        return self._network(self.weights(mean), x[None])[0]

    def learn(self, known: Known, outputs: Any, slopes: Any, y: Any) -> Known:
        """Learn from one sample: its normalized outputs `(y,)` before, their slopes in m `(y, K)`, and its y `(y,)`."""
        library, (center, scale) = self.library, self.output
        place = library.argmin(known.held)
        rows = self.put(known.rows, place, 0.0)
        flat = rows.reshape(-1, rows.shape[-1])
        gains = slopes - (slopes @ flat.T) @ flat
        errors = (y - center) / scale - outputs
        table = library.concatenate([gains @ slopes.T, errors[:, None], gains], 1)
        mean, new, size = known.mean, [], len(errors)
        for j in range(size):
            variance = library.clip(table[j, j], 0) + self.noise[j]
            if self.gate is not None:
                variance = library.maximum(variance, library.abs(table[j, size]) * library.sqrt(variance) / self.gate)
            new.append(table[j, size + 1 :] / library.sqrt(variance))
            mean = mean + new[-1] * (table[j, size] / library.sqrt(variance))
            table = table - (table[:, j] / variance)[:, None] * table[j]
        new = library.stack(new)
        return Known(mean, self.put(rows, place, new), self.put(known.held, place, (new**2).sum()))


class TorchFilter:
    """Torch, eager or compiled."""

    def __init__(self, learner: Learner, normalization: Normalization, *, compiled: bool) -> None:
        def put(array: torch.Tensor, place: torch.Tensor, rows: Any) -> torch.Tensor:
            array[place] = rows
            return array

        self.problem = FilterProblem(learner, normalization, torch.from_numpy, torch.nn.functional.silu, torch, put)
        linearize = self._traceable if compiled else self._eager

        def update(known: Known, x: torch.Tensor, y: torch.Tensor) -> tuple[Known, Arrays]:
            known = self.problem.learn(known, *linearize(known.mean, x), y)
            return known, self.problem.weights(known.mean)

        self._update = torch.compile(update) if compiled else update
        self._predict = torch.compile(self.problem.predict) if compiled else self.problem.predict
        self.known = self.problem.prior
        with torch.no_grad():
            self.weights = self.problem.weights(self.known.mean)

    def _eager(self, mean: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            leaf = mean.detach().requires_grad_()
            outputs = self.problem.normalized(leaf, x)
            slopes = [torch.autograd.grad(each, leaf, retain_graph=True)[0] for each in outputs]
        return outputs.detach(), torch.stack(slopes)

    def _traceable(self, mean: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        def twice(mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            outputs = self.problem.normalized(mean, x)
            return outputs, outputs

        slopes, outputs = torch.func.jacrev(twice, has_aux=True)(mean)
        return outputs, slopes

    def update(self, x: Array, y: Array) -> None:
        """Learn from one sample x `(x,)`, y `(y,)`, and let the new weights act."""
        with torch.no_grad():
            self.known, self.weights = self._update(self.known, torch.from_numpy(x), torch.from_numpy(y))

    def predict(self, x: Array) -> Array:
        """Map `(batch, x)` to `(batch, y)` with the weights that act."""
        with torch.no_grad():
            return self._predict(self.weights, torch.from_numpy(x)).numpy()


class JaxFilter:
    """JAX, jitted whole; the memory of the rows is donated, so that they are written in place."""

    def __init__(self, learner: Learner, normalization: Normalization) -> None:
        import jax  # pyright: ignore[reportMissingImports]  # an extra of its own: nothing else needs it

        jnp = jax.numpy
        self.problem = FilterProblem(
            learner, normalization, jnp.asarray, jax.nn.silu, jnp, lambda array, place, rows: array.at[place].set(rows)
        )
        self._wait = jax.block_until_ready

        def twice(mean: Any, x: Any) -> tuple[Any, Any]:
            outputs = self.problem.normalized(mean, x)
            return outputs, outputs

        def update(known: Known, x: Any, y: Any) -> tuple[Known, Arrays]:
            slopes, outputs = jax.jacrev(twice, has_aux=True)(known.mean, x)
            known = self.problem.learn(known, outputs, slopes, y)
            return known, self.problem.weights(known.mean)

        self._update = jax.jit(update, donate_argnums=0)
        self._predict = jax.jit(self.problem.predict)
        self.known = self.problem.prior
        self.weights = self.problem.weights(self.known.mean)

    def update(self, x: Array, y: Array) -> None:
        """Learn from one sample x `(x,)`, y `(y,)`, and let the new weights act."""
        self.known, self.weights = self._wait(self._update(self.known, x, y))

    def predict(self, x: Array) -> Array:
        """Map `(batch, x)` to `(batch, y)` with the weights that act."""
        return np.asarray(self._predict(self.weights, x))
