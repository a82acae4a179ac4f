"""A learner as three ONNX graphs: predict, the support loss, and one inner step, with U as a constant.

All take and return raw units and take the folded weights as inputs: U lies in the step alone. Gradients are traced by
`make_fx` before the export, because the exporter cannot see through `torch.func.grad`, with U as an argument of the
trace that is bound as a buffer afterwards.
"""

import copy
import itertools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vjp
from torch.nn.utils import parametrize

from msr_export.gradients import trace
from msr_export.lowering import encode, lower
from msr_export.patches import AnySamples
from msr_runtime.errors import ExportError
from msr_runtime.manifest import next_name
from msr_runtime.meta.inner import Tensors
from msr_runtime.meta.learner import Learner
from msr_runtime.meta.normalization import Normalization
from msr_runtime.meta.rules import GradientSteps, Index, Rule
from msr_runtime.meta.symmetry import fold
from msr_runtime.task import Array


class Frozen(NamedTuple):
    """A learner's graphs and where they start."""

    predict: bytes
    """ONNX: x `(batch, *x)` and the weights, by default those at v0, to y `(batch, *y)`."""
    adapt: bytes
    """ONNX: support x `(shots, *x)`, support y, v `(1, K)` and the weights there to those one step on, and the loss."""
    loss: bytes
    """ONNX: support x, support y and the weights to the loss."""
    v0: Array
    """`(1, K)`."""
    weights: dict[str, Array]
    """The folded weights at v0, in the order of the graphs' inputs and outputs."""


def folded_name(adapted: str) -> str:
    """The name of the weight that an adapted tensor makes: its own, or that of the tensor that it parametrizes."""
    return adapted.replace("parametrizations.", "").removesuffix(".original")


def flatten(learner: Learner, adapted: Tensors) -> Tensor:
    """The adapted tensors side by side as one row `(1, K)`, each flattened, in the learner's order."""
    return torch.cat([adapted[name].detach().reshape(1, -1) for name in learner.adapted_names], dim=1)


def folded_weights(learner: Learner, adapted: Tensors) -> Tensors:
    """The weights that `adapted` makes, U multiplied out, by their folded names."""
    values = fold(learner.network, adapted)
    return {name: values[name] for name in map(folded_name, learner.adapted_names)}


def freeze(learner: Learner, normalization: Normalization) -> Frozen:
    """Freeze a learner, float32 on the CPU, into its three graphs.

    Raises:
        ExportError: nothing of the learner adapts, it holds a number that is not finite, or an operation that cannot be
            written in ONNX.

    """
    if not learner.adapted_names:
        raise ExportError(
            f"nothing of method '{learner.name}' adapts, and a bundle is a network that does; it is a floor to measure "
            "others by: take 'fine-tuning' for a network that begins like it and adapts on the robot"
        )
    for name, tensor in learner.state_dict().items():
        if not tensor.isfinite().all():
            raise ExportError(f"'{name}' of the learner is not finite; its meta-training has diverged, train it anew")
    with torch.no_grad():
        start = learner.start()
        v0, weights = flatten(learner, start), folded_weights(learner, start)
    weights = {name: weight.detach().contiguous() for name, weight in weights.items()}
    return Frozen(
        predict=_freeze_predict(learner, normalization, weights),
        adapt=_freeze_step(learner, normalization, v0, weights),
        loss=_freeze_traced(_Loss(learner, normalization), {"weights": weights}, ["loss"]),
        v0=v0.numpy(),
        weights={name: weight.numpy() for name, weight in weights.items()},
    )


class _Plain(nn.Module):
    """What all graphs share: the network without U, its weights given, between raw and normalised units."""

    input_center: Tensor
    input_scale: Tensor
    output_center: Tensor
    output_scale: Tensor

    def __init__(self, learner: Learner, normalization: Normalization) -> None:
        super().__init__()
        self.plain = copy.deepcopy(learner)
        for layer in list(self.plain.network.modules()):
            if parametrize.is_parametrized(layer):
                _remove_parametrizations(layer)
        for name, values in normalization.model_dump().items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def predict(self, x: Tensor, weights: Tensors) -> Tensor:
        y = self.plain(weights, self._normalized_x(x))
        return y if self.plain.classifies else y * self.output_scale + self.output_center

    def loss(self, support_x: Tensor, support_y: Tensor, weights: Tensors) -> Tensor:
        return self.plain.support_loss(weights, *self._normalized(support_x, support_y))

    def _normalized(self, support_x: Tensor, support_y: Tensor) -> tuple[Tensor, Tensor]:
        y = support_y if self.plain.classifies else (support_y - self.output_center) / self.output_scale
        return self._normalized_x(support_x), y

    def _normalized_x(self, x: Tensor) -> Tensor:
        return (x - self.input_center) / self.input_scale


def _remove_parametrizations(layer: nn.Module) -> None:
    """Make the parametrized tensors of a copied layer plain parameters again.

    torch's own function would take the tensors off the class, which the copy shares with the learner that it is of.
    """
    tensors = {name: getattr(layer, name).detach() for name in layer.parametrizations}  # type: ignore[union-attr]
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    for name, tensor in tensors.items():
        layer.register_parameter(name, nn.Parameter(tensor))


class _Predict(_Plain):
    """`x, *weights -> y`."""

    def forward(self, x: Tensor, weights: Tensors) -> Tensor:
        return self.predict(x, weights)


class _Loss(_Plain):
    """`support_x, support_y, *weights -> loss`."""

    def forward(self, support_x: Tensor, support_y: Tensor, weights: Tensors) -> Tensor:
        return self.loss(support_x, support_y, weights)


class _Means(_Plain):
    """`support_x, support_y, v, *weights -> v_next, *weights_next, loss`, for a learner that writes its own `adapt`.

    It goes to the same place from anywhere, as the prototypes of classes do: a second step changes nothing.
    """

    def forward(self, support_x: Tensor, support_y: Tensor, v: Tensor, weights: Tensors) -> tuple[Tensor, ...]:  # noqa: ARG002
        moved = self.plain.adapt(*self._normalized(support_x, support_y))
        v_next = flatten(self.plain, moved)
        return v_next, *folded_weights(self.plain, moved).values(), self.loss(support_x, support_y, weights)


class _Step(_Plain):
    """The same by a learner's rule: `support_x, support_y, v, *weights[, step] -> v_next, *weights_next, loss`.

    `step` `(1,)` counts from 0; it is an input where the rule learned numbers for each step.
    """

    def __init__(self, learner: Learner, normalization: Normalization, rule: Rule) -> None:
        super().__init__(learner, normalization)
        self.learner = copy.deepcopy(learner)
        self.learner.rule = rule.portable()
        start = learner.start()
        self.shapes = {name: start[name].shape for name in learner.adapted_names}

    def unflatten(self, v: Tensor) -> Tensors:
        parts = v.split([shape.numel() for shape in self.shapes.values()], dim=1)
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def forward(
        self, support_x: Tensor, support_y: Tensor, v: Tensor, weights: Tensors, step: Index = 0
    ) -> tuple[Tensor, ...]:
        x, y = self._normalized(support_x, support_y)
        # The rule starts from v alone; its own outputs are those of the weights, which so stay inputs of the graph.
        assert self.learner.rule is not None
        moved, _ = self.learner.rule.step(step, self._any_samples, self.learner.loss, self.unflatten(v), x, y)
        v_next = flatten(self.learner, moved)
        return v_next, *folded_weights(self.learner, moved).values(), self.loss(support_x, support_y, weights)

    def _any_samples(self, adapted: Tensors, x: Tensor) -> Tensor:
        with AnySamples():
            return self.learner(adapted, x)


class _GradientStep(_Step):
    """The same for gradient steps, with U read twice, to pull back and to fold, and not a third time to begin.

    The gradient is taken with respect to the weights, which are carried from step to step, and pulled back through the
    fold.
    """

    rates: Tensor

    def __init__(self, learner: Learner, normalization: Normalization, rule: GradientSteps) -> None:
        super().__init__(learner, normalization, rule)
        rows = [
            flatten(learner, {name: rate.expand(self.shapes[name]) for name, rate in rule.rates(index).items()})
            for index in range(rule.own_steps)
        ]
        self.register_buffer("rates", torch.cat(rows))

    def forward(
        self, support_x: Tensor, support_y: Tensor, v: Tensor, weights: Tensors, step: Index = 0
    ) -> tuple[Tensor, ...]:
        gradients, loss = grad_and_value(lambda weights: self.loss(support_x, support_y, weights))(weights)
        pull_back = vjp(lambda v: folded_weights(self.learner, self.unflatten(v)), v)[1]  # linear: no value is computed
        # As one row and its row of rates, the step is one multiplication and one subtraction for all tensors.
        rates = self.rates if isinstance(step, int) else self.rates.index_select(0, step.clamp(max=len(self.rates) - 1))
        v_next = v - rates * pull_back(gradients)[0]
        return v_next, *folded_weights(self.learner, self.unflatten(v_next)).values(), loss


def _freeze_step(learner: Learner, normalization: Normalization, v0: Tensor, weights: Tensors) -> bytes:
    rule, state = learner.rule, dict[str, Any](v=v0, weights=weights)
    if rule is None:
        module = _Means(learner, normalization)
    elif isinstance(rule, GradientSteps):
        module = _GradientStep(learner, normalization, rule)
    else:
        module = _Step(learner, normalization, rule)
    if rule is not None and rule.own_steps > 1:
        state["step"] = torch.ones(1, dtype=torch.int64)
    return _freeze_traced(module, state, ["v_next", *map(next_name, weights), "loss"])


class _Traced(nn.Module):
    """A module traced into core operators, its parameters and buffers constants."""

    def __init__(self, module: nn.Module, arguments: dict[str, Any]) -> None:
        super().__init__()
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        constants = {name: tensor.detach() for name, tensor in tensors.items()}
        self.graph = trace(
            lambda constants, arguments: functional_call(module, constants, kwargs=arguments),
            constants,
            arguments,
            ("support_x", "support_y"),
        )
        self.names = {name: f"constant_{index}" for index, name in enumerate(constants)}
        for name, constant in constants.items():
            self.register_buffer(self.names[name], constant)

    def forward(self, arguments: dict[str, Any]) -> Any:
        return self.graph({name: getattr(self, buffer) for name, buffer in self.names.items()}, arguments)


def _freeze_predict(learner: Learner, normalization: Normalization, weights: Tensors) -> bytes:
    count = _example_count(learner, learner, weights.values())
    examples = {"x": torch.randn(count, *learner.inputs), "weights": weights}
    axes = {"x": {0: torch.export.Dim("batch")}, "weights": dict.fromkeys(weights)}
    model = lower(_Predict(learner, normalization), examples, axes, ["x", *weights], ["y"])
    for name, weight in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight.detach().numpy()), name))
    return encode(model)


def _example_count(learner: Learner, module: nn.Module, given: Iterable[Tensor]) -> int:
    """The length of the dynamic axis while tracing: one that nothing else has, for torch takes equal lengths for one.

    Nor may the numbers of outputs of all samples together be such a length, as Gauss-Newton lays them side by side.
    """
    taken = {length for tensor in (*module.state_dict().values(), *given) for length in tensor.shape}
    taken |= {*learner.inputs, *learner.outputs}
    outputs = math.prod(learner.outputs)
    return next(count for count in itertools.count(7) if taken.isdisjoint((count, count * outputs)))


def _freeze_traced(module: _Plain, state: dict[str, Any], outputs: list[str]) -> bytes:
    """Freeze a module of a support set and of `state`, the v and the weights that it is given."""
    learner, shots = module.plain, {0: torch.export.Dim("shots")}
    count = _example_count(learner, module, [*state["weights"].values(), *([state["v"]] if "v" in state else [])])
    x = torch.randn(count, *learner.inputs)
    y = torch.randint(learner.outputs[0], (count,)) if learner.classifies else torch.randn(count, *learner.outputs)
    examples = {"support_x": x, "support_y": y, **state}
    axes = {"support_x": shots, "support_y": shots, **dict.fromkeys(state)}
    axes["weights"] = dict.fromkeys(state["weights"])
    inputs = [each for name in examples for each in (state["weights"] if name == "weights" else [name])]
    traced = _Traced(module, examples)
    model = lower(traced, {"arguments": examples}, {"arguments": axes}, inputs, outputs)
    return encode(model)
