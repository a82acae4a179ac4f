"""The Jacobian of a network in v, layer by layer: far fewer products than row by row.

The gradient of an output by the weight of a linear layer is an outer product: delta, the gradient that arrives at the
layer's output, times the layer's input a. It is as large as the weight. With a dense U `(out * in, k)`, every output of
a sample would multiply all of U by it. But U can be multiplied by a first, once for all outputs:

    row by row       (delta ⊗ a) U    per output: out * in * k products
    layer by layer   delta (a U)      per sample: out * in * k, and per output: out * k

The factors of the other forms of U turn delta and a one by one. They never meet anything as large as the weight.

Other parts are computed row by row, as in training: a convolution, a form that is not in `_ROWS`, a
tensor without U, a layer that a sample passes twice.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from msr_export.folding import folded_name, folded_weights
from msr_export.patches import AnySamples
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.meta.symmetry.forms import FullSymmetry, KroneckerSymmetry, PerInputSymmetry, Symmetry

_SAMPLES = 3
"""Samples of the example by which the layers are found."""


class InputFirst(Symmetry):
    """A dense U of a linear layer, with its axes in the order in which a product with the layer's input is plain.

    Args:
        symmetry: U of a weight `(out, in)`.

    """

    def __init__(self, symmetry: FullSymmetry) -> None:
        super().__init__()
        self.filter_shape = symmetry.filter_shape
        outputs, inputs = symmetry.shape
        turned = symmetry.U.detach().reshape(outputs, inputs, -1).transpose(0, 1)
        self.U = nn.Parameter(turned.reshape(inputs, -1))
        """`(in, out * k)`."""

    def forward(self, v: Tensor) -> Tensor:
        """Map filter parameters v `(k,)` to the layer's weight `(out, in)`."""
        return (v.unsqueeze(0) @ self.U.reshape(-1, len(v)).mT).reshape(len(self.U), -1).mT


def _input_first(symmetry: InputFirst, a: Tensor, delta: Tensor) -> Tensor:
    return delta @ (a @ symmetry.U).reshape(a.shape[0], delta.shape[-1], -1)


def _per_input(symmetry: PerInputSymmetry, a: Tensor, delta: Tensor) -> Tensor:
    """W[:, i] is `U v[:, i]`, so `delta W a` is the sum over i of `(delta U) v[:, i] a[i]`."""
    return (delta @ symmetry.U).unsqueeze(-1) * a[:, None, None]


def _kronecker(symmetry: KroneckerSymmetry, a: Tensor, delta: Tensor) -> Tensor:
    """`delta A V Bᵀ a` is linear in V: an outer product of `delta A` and `a B`, for each term."""
    left, right = delta.unsqueeze(1) @ symmetry.A, a.unsqueeze(0) @ symmetry.B  # (n, R, y, m) and (R, n, in)
    return left.permute(0, 2, 3, 1) @ right.permute(1, 0, 2).unsqueeze(1)


_ROWS: dict[type[Symmetry], Callable[[Any, Tensor, Tensor], Tensor]] = {
    InputFirst: _input_first,
    PerInputSymmetry: _per_input,
    KroneckerSymmetry: _kronecker,
}
"""Form of U to the rows of the Jacobian in v, `(n, outputs, ...)`, by the layer's input a `(n, in)` and by the delta of
each output, `(n, outputs, out)`.
"""


class LayerByLayer:
    """A learner's network, and its Jacobian layer by layer.

    Args:
        learner: The learner. A dense U of a layer that suits it is put in another order, in place.
        plain: The same learner without U.

    """

    def __init__(self, learner: Learner, plain: Learner) -> None:
        self._learner, self._plain = learner, plain
        # Not asked for in a trace: there, parameters are plain tensors, which a method may not know as parameters.
        self._start = {name: value.detach() for name, value in learner.start().items()}
        self._symmetries: dict[str, Symmetry] = {}
        """Name of a weight to its U, for each layer that suits it."""
        self._biases: dict[str, tuple[FullSymmetry, str]] = {}
        """Name of a bias of such a layer to its U and to the name of the weight."""
        self._widths: dict[str, int] = {}
        """Name of a weight to the numbers that its layer writes for a sample."""
        self._tap: _Tap | None = None
        folded, found = {folded_name(name) for name in learner.adapted_names}, self._find()
        for name, layer in learner.network.named_modules():
            weight, bias = (f"{name}.{tensor}".lstrip(".") for tensor in ("weight", "bias"))
            if weight not in folded or weight not in found or not parametrize.is_parametrized(layer, "weight"):
                continue
            made_by: Any = layer.parametrizations
            if type(made_by.weight[0]) is FullSymmetry:
                made_by.weight[0] = InputFirst(made_by.weight[0])
            if type(made_by.weight[0]) not in _ROWS:
                continue
            self._symmetries[weight], self._widths[weight] = made_by.weight[0], len(plain.network.get_parameter(weight))
            if bias in folded and found[weight] == bias and type(made_by.bias[0]) is FullSymmetry:
                self._biases[bias] = made_by.bias[0], weight

    @property
    def names(self) -> set[str]:
        """The weights and biases that go layer by layer."""
        return {*self._symmetries, *self._biases}

    def forward(self, adapted: Tensors, x: Tensor) -> Tensor:
        """Map x `(samples, *x)` to `(samples, *y)` with the given adapted tensors."""
        # The fold of an equivariant U splits and concatenates. A Jacobian row by row goes through it.
        with AnySamples():
            weights = folded_weights(self._learner, adapted)
            if self._tap is None:
                return self._plain(weights, x)
            self._tap.names = {id(weight): name for name, weight in weights.items()}
            with self._tap:
                return self._plain(weights, x)

    def jacobian(self, residuals: Callable[..., Tensor], moving: Tensors, support: tuple[Tensor, ...]) -> Tensors:
        """The same numbers as `jacobian_backwards`, by the same arguments. `residuals` calls `forward` once."""
        unit = torch.eye(support[-1][0].numel(), dtype=support[-1].dtype)
        rest = {name: v for name, v in moving.items() if folded_name(name) not in self.names}
        probes = {name: unit.new_zeros(1, width) for name, width in self._widths.items()}

        def of_sample(*sample: Tensor) -> tuple[Tensors, Tensors, Tensors]:
            alone = [part.unsqueeze(0) for part in sample]

            def tapped(rest: Tensors, probes: Tensors) -> tuple[Tensor, Tensors]:
                self._tap = _Tap(probes)
                values = residuals(moving | rest, *alone).flatten()
                return values, self._tap.inputs

            pulling: Any = vjp(tapped, rest, probes, has_aux=True)
            _, pull_back, inputs = pulling
            return *vmap(pull_back)(unit), inputs

        pulled, deltas, inputs = vmap(of_sample)(*support)
        self._tap = None
        parts = {}
        for name in moving:
            folded = folded_name(name)
            if folded in self._symmetries:
                symmetry, delta = self._symmetries[folded], deltas[folded].squeeze(2)
                part = _ROWS[type(symmetry)](symmetry, inputs[folded].squeeze(1), delta)
            elif folded in self._biases:
                symmetry, weight = self._biases[folded]
                part = deltas[weight].squeeze(2) @ symmetry.U
            else:
                part = pulled[name]
            parts[name] = part.flatten(0, 1).flatten(1)
        return parts

    def slopes(self, weights: Tensors, x: Tensor) -> tuple[Tensor, Tensors]:
        """How the outputs of one sample change with v, of a network whose weights are known. Nothing is folded anew.

        Args:
            weights: The folded weights.
            x: `(1, *x)`.

        Returns:
            The outputs `(J,)`, and adapted name to the slopes `(J, numbers)`.

        """
        adapted = {folded_name(name): name for name in self._learner.adapted_names}
        rest = {folded: weights[folded] for folded in adapted if folded not in self.names}
        probes = {name: x.new_zeros(1, width) for name, width in self._widths.items()}
        unit = torch.eye(math.prod(self._learner.outputs), dtype=x.dtype)

        def tapped(rest: Tensors, probes: Tensors) -> tuple[Tensor, tuple[Tensor, Tensors]]:
            given, tap = weights | rest, _Tap(probes)
            tap.names = {id(weight): name for name, weight in given.items()}
            with AnySamples(), tap:
                outputs = self._plain(given, x).flatten()
            return outputs, (outputs, tap.inputs)

        pulling: Any = vjp(tapped, rest, probes, has_aux=True)
        _, pull_back, (outputs, inputs) = pulling
        pulled, deltas = vmap(pull_back)(unit)
        if rest:  # from the weights on to v, which is linear: where v is does not matter
            start = {name: value for name, value in self._start.items() if folded_name(name) in rest}
            fold: Any = vjp(self._folded, start)[1]
            pulled = vmap(lambda row: fold(row)[0])(pulled)
        deltas = {name: delta.squeeze(1) for name, delta in deltas.items()}
        slopes = {}
        for folded, name in adapted.items():
            if folded in self._biases:
                bias, weight = self._biases[folded]
                part = deltas[weight] @ bias.U
            elif folded in self._symmetries:
                symmetry, delta, a = self._symmetries[folded], deltas[folded], inputs[folded]
                if isinstance(symmetry, InputFirst):  # in fewer operators: for one sample, they take most of the time
                    part = delta @ (a @ symmetry.U).reshape(delta.shape[1], -1)
                else:
                    part = _ROWS[type(symmetry)](symmetry, a, delta.unsqueeze(0)).squeeze(0)
            else:
                part = pulled[name]
            slopes[name] = part.flatten(1)
        return outputs, slopes

    def _folded(self, moving: Tensors) -> Tensors:
        """The weights that some of the adapted tensors make."""
        weights = folded_weights(self._learner, self._start | moving)
        return {folded_name(name): weights[folded_name(name)] for name in moving}

    def _find(self) -> dict[str, str | None]:
        """Find the linear layers that each sample passes once: name of the weight to that of the bias."""
        adapted, tap = self._learner.start(), _Tap({})
        example = torch.zeros(_SAMPLES, *self._learner.inputs, dtype=next(iter(adapted.values())).dtype)
        self._tap = tap
        with torch.no_grad():
            self.forward(adapted, example)
        self._tap = None
        found = {}
        for weight, a in tap.inputs.items():
            if tap.uses[weight] == 1 and a.shape == (_SAMPLES, a.shape[-1]):
                bias = tap.biases[weight]
                found[weight] = bias if bias and tap.uses[bias] == 1 else None
        return found


class _Tap(TorchFunctionMode):
    """A context that notes what linear layers read, and adds probes to what they write.

    The derivative by a probe is the gradient that arrives at the layer's output.

    Args:
        probes: Name of a weight to what is added to its layer's output.

    """

    def __init__(self, probes: Tensors) -> None:
        super().__init__()
        self.probes = probes
        self.names: dict[int, str] = {}
        """Identity of a weight to its name."""
        self.inputs: Tensors = {}
        """Name of a weight to what its layer read."""
        self.biases: dict[str, str | None] = {}
        """Name of a weight to that of the bias beside it."""
        self.uses: Counter[str] = Counter()
        """Name of a weight or bias to the operators that read it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`."""
        value, given = func(*args, **(kwargs or {})), [*args, *(kwargs or {}).values()]
        named = [self.names.get(id(each)) for each in given]
        self.uses.update(filter(None, named))
        if func is nn.functional.linear and (weight := named[1]):
            self.inputs[weight], self.biases[weight] = given[0], named[2] if len(named) > 2 else None
            return value + self.probes[weight] if weight in self.probes else value
        return value
