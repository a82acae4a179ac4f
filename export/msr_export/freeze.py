"""A learner as three ONNX graphs: predict, the support loss, and one inner step, with U as a constant.

All graphs take and return raw units. All take the folded weights (U multiplied out) as inputs, so U lies in the step
alone.

Why the step is traced with `make_fx`: an inner step contains a gradient, and torch's ONNX exporter cannot see through
`torch.func.grad`. `make_fx` runs the step once on examples and records every operator that runs, those of the gradient
included. The exporter gets this record, which has no call of `grad` in it:

    step with grad(loss) inside  -- make_fx -->  plain graph of operators  -- torch.onnx.export -->  adapt.onnx

U is an argument of the trace. Afterwards it is bound as a buffer, and so becomes a constant of the graph.

Symbolic shots: the trace also records sizes. The size of the shots axis is a symbol, say s, and not the number of the
example. A mean then divides by s, and the graph holds for any number of support samples.
"""

import itertools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.func import grad_and_value, vjp

from msr_export.elimination import LARGEST, freeze_elimination
from msr_export.folding import folded_weights
from msr_export.layers import LayerByLayer
from msr_export.lowering import encode, lower
from msr_export.patches import AnySamples
from msr_export.plain import Adapting, Plain
from msr_export.precision import sum_dtype
from msr_export.recursion import RecursiveGraphs, freeze_recursion
from msr_export.traced import Traced
from msr_runtime.bundle.manifest import LOSS_AFTER, LOSSES, next_name
from msr_runtime.errors import ExportError
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.prototypes import ProtoNets
from msr_runtime.meta.rules.gauss_newton import GaussNewton
from msr_runtime.meta.rules.gradient import GradientSteps
from msr_runtime.meta.rules.recursive import Recursive
from msr_runtime.meta.rules.rule import LOSSES as TORCH_LOSSES
from msr_runtime.meta.rules.rule import Index, Rule, Tensors
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array


class Frozen(NamedTuple):
    """A learner's graphs and the values at which they start."""

    predict: bytes
    """ONNX: x `(batch, *x)` and the weights, by default those at v0, to y `(batch, *y)`."""
    adapt: bytes
    """ONNX: support x `(shots, *x)`, support y, v `(1, K)` and its weights, to v and weights after one step, and the
    loss before; of class means, the loss after it too. Empty with the rule `recursive`, which takes no steps.
    """
    loss: bytes
    """ONNX: support x, support y and the weights to the loss, and to the loss of each sample."""
    v0: Array
    """All adapted tensors at the start, side by side: `(1, K)`."""
    weights: dict[str, Array]
    """The folded weights at v0, in the order of the graphs' inputs and outputs."""
    sums: bytes | None = None
    """ONNX: some support x and y and v, to what `solve` needs of them, their mean loss and the weights of v. None for
    rules without a linear system, and where the system of v would be too large to write.
    """
    solve: bytes | None = None
    """ONNX: the sums over all support samples, their number and v, to v after one step. None where `sums` is."""
    recursion: RecursiveGraphs | None = None
    """The graphs of the rule `recursive`. None for other rules."""


def flatten(learner: Learner, adapted: Tensors) -> Tensor:
    """The adapted tensors as one row `(1, K)`: each flattened, side by side, in the learner's order."""
    return torch.cat([adapted[name].detach().reshape(1, -1) for name in learner.adapted_names], dim=1)


def freeze(learner: Learner, normalization: Normalization) -> Frozen:
    """Freeze a learner, float32 on the CPU, into its three graphs.

    Raises:
        ExportError: Nothing of the learner adapts, or what adapts has no fixed size; it takes steps from class means;
            it holds a number that is not finite; or it uses an operation that cannot be written in ONNX.

    """
    if not learner.adapted_names:
        raise ExportError(
            f"nothing of method '{learner.name}' adapts, but a bundle needs at least one tensor that does; the method "
            "is a floor to compare others with: take method 'fine-tuning', which starts alike and adapts on the robot"
        )
    if not learner.adapted_size():
        raise ExportError(
            f"what method '{learner.name}' keeps of a support set grows with its samples, but what adapts in a bundle "
            "has a fixed size; evaluate the checkpoint in its place (msr evaluate), or take another method, such as "
            "function-encoder"
        )
    if isinstance(learner, ProtoNets) and learner.refinement is not None:
        raise ExportError(
            f"method '{learner.name}' takes Gauss-Newton steps from class means, whose linear system grows with "
            "samples times classes, but a robot teaches any number of samples in one call: evaluate the checkpoint in "
            "its place (msr evaluate), or train class means alone (leave --learner.rule out)"
        )
    for name, tensor in learner.state_dict().items():
        if not tensor.isfinite().all():
            raise ExportError(
                f"'{name}' of the learner is not finite, but finite numbers are wanted; most likely its meta-training "
                "diverged: train again, from lower rates"
            )
    with torch.no_grad():
        start = learner.start()
        v0, weights = flatten(learner, start), folded_weights(learner, start)
    weights = {name: weight.detach().contiguous() for name, weight in weights.items()}
    sums = solve = None
    recursive = learner.rule if isinstance(learner.rule, Recursive) else None
    if rule := _writes_sums(learner):
        module = _Sums(learner, normalization, rule)
        sums = _freeze_traced(module, {"v": v0}, ["sums", "loss", *weights])
        solve = freeze_elimination(learner, rule)
    return Frozen(
        predict=_freeze_predict(learner, normalization, weights),
        adapt=b"" if recursive else _freeze_step(learner, normalization, v0, weights),
        loss=_freeze_traced(_Loss(learner, normalization), {"weights": weights}, ["loss", LOSSES]),
        v0=v0.numpy(),
        weights={name: weight.numpy() for name, weight in weights.items()},
        sums=sums,
        solve=solve,
        recursion=freeze_recursion(learner, normalization, recursive, v0, weights) if recursive else None,
    )


class _Predict(Plain):
    """The graph `x, *weights -> y`."""

    def forward(self, x: Tensor, weights: Tensors) -> Tensor:
        return self.predict(x, weights)


class _Loss(Plain):
    """The graph `support_x, support_y, *weights -> loss, losses`: the learner's loss, and that of each sample."""

    def forward(self, support_x: Tensor, support_y: Tensor, weights: Tensors) -> tuple[Tensor, Tensor]:
        x, y = self._normalized(support_x, support_y)
        y_hat, loss = self.plain(weights, x), TORCH_LOSSES[self.plain.loss]
        each = loss(y_hat, y, reduction="none")
        return loss(y_hat, y), each if each.ndim == 1 else each.mean(tuple(range(1, each.ndim)))


class _Means(Adapting):
    """The inner step of a learner that writes its own `adapt`.

    The graph is `support_x, support_y, v, *weights -> v_next, *weights_next, loss, loss_next`.

    Closed-form update: more steps change nothing. Prototypes go on from v: a class without samples keeps its own. Other
    updates do not depend on v. The network of the means is the one without U. What adapts may have a U, which folds it.

    Nearly all of the time goes into the embedding of the samples. It is the same for the means and for the losses
    before and after them, so one graph gives all three.
    """

    def forward(self, support_x: Tensor, support_y: Tensor, v: Tensor, weights: Tensors) -> tuple[Tensor, ...]:
        x, y = self._normalized(support_x, support_y)
        plain = self.plain
        moved = plain.relearn(self.unflatten(v), x, y) if isinstance(plain, ProtoNets) else plain.adapt(x, y)
        after = folded_weights(self.learner, moved)
        losses = (self.loss(support_x, support_y, each) for each in (weights, after))
        return flatten(self.learner, moved), *after.values(), *losses


class _Step(Adapting):
    """The graph `support_x, support_y, v, *weights[, step] -> v_next, *weights_next, loss`, for any rule.

    `step` `(1,)` counts from 0. It is an input only if the rule has learned numbers for each step.
    """

    def __init__(self, learner: Learner, normalization: Normalization, rule: Rule) -> None:
        super().__init__(learner, normalization)
        self.learner.rule = rule.portable()

    def forward(
        self, support_x: Tensor, support_y: Tensor, v: Tensor, weights: Tensors, step: Index = 0
    ) -> tuple[Tensor, ...]:
        x, y = self._normalized(support_x, support_y)
        # The rule starts from v alone and would leave the given weights unused. The loss reads them, so that they stay
        # inputs of the graph. They are the weights of v, so the loss is the same.
        assert self.learner.rule is not None
        moved, _ = self.learner.rule.take(step, self._any_samples, self.learner.loss, self.unflatten(v), x, y)
        v_next = flatten(self.learner, moved)
        return v_next, *folded_weights(self.learner, moved).values(), self.loss(support_x, support_y, weights)

    def _any_samples(self, adapted: Tensors, x: Tensor) -> Tensor:
        """The network in operators that `vmap` takes for any number of samples (see `AnySamples`)."""
        with AnySamples():
            return self.learner(adapted, x)


class _Sums(_Step):
    """The graph `support_x, support_y, v -> sums, loss, *weights` of a rule that solves a linear system.

    A robot with many samples adds up the sums of parts of them. The weights are those of v: after the last step, the
    graph folds v.
    """

    def __init__(self, learner: Learner, normalization: Normalization, rule: GaussNewton) -> None:
        super().__init__(learner, normalization, rule)
        self.layers = LayerByLayer(self.learner, self.plain)
        self.dtype = sum_dtype(learner, rule)

    def flatten(self, samples: int) -> None:
        """See `Plain.flatten`. No layer is left to go by: the Jacobian is taken row by row."""
        super().flatten(samples)
        self.layers = LayerByLayer(self.learner, self.plain)

    def forward(self, support_x: Tensor, support_y: Tensor, v: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        x, y = self._normalized(support_x, support_y)
        rule, adapted = self.learner.rule, self.unflatten(v)
        assert isinstance(rule, GaussNewton)
        by = {"backwards": self.layers.jacobian, "dtype": self.dtype}
        sums, loss = rule.sums(self.layers.forward, self.learner.loss, adapted, x, y, **by)
        return sums, loss, *folded_weights(self.learner, adapted).values()


class _GradientStep(_Step):
    """The same graph for gradient steps. It reads U twice: to pull the gradient back to v, and to fold the new v.

    It saves a third reading, to fold v at the start: the weights are carried from step to step. The gradient is taken
    with respect to these weights and pulled back through the fold.
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
        # The fold is linear: pulling back through it needs U alone. The fold's value is not used and drops out.
        pull_back = vjp(lambda v: folded_weights(self.learner, self.unflatten(v)), v)[1]
        # v is one row, and so are its rates. So the step is one multiplication and one subtraction for all tensors.
        rates = self.rates if isinstance(step, int) else self.rates.index_select(0, step.clamp(max=len(self.rates) - 1))
        v_next = v - rates * pull_back(gradients)[0]
        return v_next, *folded_weights(self.learner, self.unflatten(v_next)).values(), loss


def _writes_sums(learner: Learner) -> GaussNewton | None:
    """The learner's rule, if its linear system can be written in the space of v: all of v moves, and is not too long.

    `sums` and `solve` then do for many samples what `adapt` does for few.
    """
    rule = learner.rule
    if not isinstance(rule, GaussNewton) or rule.names != tuple(learner.adapted_names):
        return None
    return rule if learner.adapted_size() <= LARGEST else None


def _freeze_step(learner: Learner, normalization: Normalization, v0: Tensor, weights: Tensors) -> bytes:
    """The step's graph. Which module makes it depends on the learner's rule."""
    rule, state = learner.rule, dict[str, Any](v=v0, weights=weights)
    outputs = ["v_next", *map(next_name, weights), "loss"]
    if rule is None:
        module = _Means(learner, normalization)
        outputs.append(LOSS_AFTER)
    elif isinstance(rule, GradientSteps):
        module = _GradientStep(learner, normalization, rule)
    else:
        module = _Step(learner, normalization, rule)
    if rule is not None and rule.own_steps > 1:
        state["step"] = torch.ones(1, dtype=torch.int64)
    return _freeze_traced(module, state, outputs)


def _freeze_predict(learner: Learner, normalization: Normalization, weights: Tensors) -> bytes:
    """The graph of predictions. The weights at v0 are its defaults, so it can run with x alone."""
    count = _example_count(learner, learner, weights.values())
    examples = {"x": torch.randn(count, *learner.inputs), "weights": weights}
    axes = {"x": {0: torch.export.Dim("batch")}, "weights": dict.fromkeys(weights)}
    model = lower(_Predict(learner, normalization).eval(), examples, axes, ["x", *weights], ["y"])
    # In ONNX an initializer with the name of an input is the input's default value.
    for name, weight in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight.detach().numpy()), name))
    return encode(model)


def _example_count(learner: Learner, module: nn.Module, given: Iterable[Tensor]) -> int:
    """The number of samples in the examples of the trace: a length that no other axis has.

    torch takes axes of equal length for the same axis. The outputs of all samples together must not have such a length
    either, because Gauss-Newton lays them side by side.
    """
    taken = {length for tensor in (*module.state_dict().values(), *given) for length in tensor.shape}
    taken |= {*learner.inputs, *learner.outputs}
    outputs = math.prod(learner.outputs)
    return next(count for count in itertools.count(7) if taken.isdisjoint((count, count * outputs)))


def _freeze_traced(module: Plain, state: dict[str, Any], outputs: list[str]) -> bytes:
    """Freeze a module of a support set and `state`: the v and the weights that it is given."""
    learner, shots = module.plain, {0: torch.export.Dim("shots")}
    weights = state.get("weights", {})
    count = _example_count(learner, module, [*weights.values(), *([state["v"]] if "v" in state else [])])
    x = torch.randn(count, *learner.inputs)
    y = torch.randint(learner.outputs[0], (count,)) if learner.classifies else torch.randn(count, *learner.outputs)
    examples = {"support_x": x, "support_y": y, **state}
    axes = {"support_x": shots, "support_y": shots, **dict.fromkeys(state)}
    if weights:
        axes["weights"] = dict.fromkeys(weights)
    inputs = [each for name in examples for each in (weights if name == "weights" else [name])]
    try:
        traced = Traced(module, examples, ("support_x", "support_y"))
    except Exception:
        if not learner.own_network:
            raise
        module.flatten(count)
        traced = Traced(module, examples, ("support_x", "support_y"))
    model = lower(traced, {"arguments": examples}, {"arguments": axes}, inputs, outputs)
    return encode(model)
