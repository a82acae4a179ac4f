"""The graphs of the rule `recursive`: an update by one sample, and predictions with deviations.

Both need the slopes of the outputs in v. They take them layer by layer, with the folded weights that they are given: U
is read once for the slopes, and in an update once more to fold the new weights. All else is small.

The rows of the belief lie in a ring whose size is fixed. A row with the weight 0 holds nothing. What time does between
two samples is done before the graph runs, by the runtime (see `msr_runtime.inference.updater`). So are the runs that
linearize the first samples again: for them the weights are those at another v than the one that moves.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from msr_export.folding import folded_weights
from msr_export.layers import LayerByLayer
from msr_export.lowering import encode, lower
from msr_export.plain import Adapting
from msr_export.traced import Traced
from msr_runtime.bundle.manifest import next_name
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.belief import Belief, eliminate, squared_errors
from msr_runtime.meta.rules.recursive import Recursive
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.normalization import Normalization
from msr_runtime.relinearization import LINEARIZED

_SAMPLES = 7
"""Samples of an example by which a network of your own is written as a flat graph."""


class RecursiveGraphs(NamedTuple):
    """The graphs of the rule `recursive`."""

    update: bytes
    """ONNX: x `(1, *x)`, y `(1, *y)`, v `(1, K)`, the v where the network is linearized `(1, K)`, the weights there,
    rows `(slots, K)` and decays `(slots,)`, to v and weights after the sample, new rows `(J, K)`, innovation and
    variance `(1, *y)`, and nis `(1,)`. Where no sample is linearized again, the network is linearized at v.
    """
    deviation: bytes
    """ONNX: x `(1, *x)`, the weights, rows and decays, to y and its epistemic and total deviations `(1, *y)`."""
    memory: int
    """How many samples count in the covariance."""
    relinearize: int
    """How many of the first samples are linearized again."""
    outputs: int
    """J, the numbers of one sample's y."""
    keep: float
    """What is left of the mean after the time between two samples of meta-training."""


def freeze_recursion(
    learner: Learner, normalization: Normalization, rule: Recursive, v0: Tensor, weights: Tensors
) -> RecursiveGraphs:
    """Freeze a learner with the rule `recursive`, float32 on the CPU, into its two graphs.

    Args:
        learner: The learner.
        normalization: The normalization under which it was trained.
        rule: Its rule.
        v0: Where v starts, `(1, K)`.
        weights: The folded weights there.

    """
    J = len(rule.noise())
    at = {LINEARIZED: v0.clone()} if rule.relinearize else {}
    slots = (rule.memory + 1) * J
    belief = {"rows": torch.randn(slots, v0.numel()), "decays": torch.rand(slots)}
    x, y = torch.randn(1, *learner.inputs), torch.randn(1, *learner.outputs)
    seen = ["new_rows", "innovation", "variance", "nis"]
    update = _freeze(
        _Update(learner, normalization, rule),
        {"x": x, "y": y, "v": v0, **at, "weights": weights, **belief},
        [next_name("v"), *map(next_name, weights), *seen],
    )
    deviation = _freeze(
        _Deviation(learner, normalization, rule),
        {"x": x, "weights": weights, **belief},
        ["y", "epistemic", "total"],
    )
    usual = rule.keep()
    return RecursiveGraphs(update, deviation, rule.memory, rule.relinearize, J, 1.0 if usual is None else usual.item())


class _Filter(Adapting):
    """What both graphs share: the slopes of the outputs in v, and the scales that whiten it."""

    scale: Tensor
    noise: Tensor

    def __init__(self, learner: Learner, normalization: Normalization, rule: Recursive) -> None:
        super().__init__(learner, normalization)
        self.gate = rule.gate
        with torch.no_grad():
            scales = rule.scales()
            # What the rule does not move has no prior but its start.
            parts = [scales.get(name, torch.zeros(())).expand(shape.numel()) for name, shape in self.shapes.items()]
            self.register_buffer("scale", torch.cat(parts))
            self.register_buffer("noise", rule.noise().detach().clone())
        self.learner.rule = None  # its parameters would be constants of the graph
        self.layers = LayerByLayer(self.learner, self.plain)

    def flatten(self, samples: int) -> None:
        """See `Plain.flatten`. No layer is left to go by: the slopes are taken row by row."""
        super().flatten(samples)
        self.layers = LayerByLayer(self.learner, self.plain)

    def slopes(self, weights: Tensors, x: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of normalized x `(1, *x)`: `(J,)`, and their slopes in v `(J, K)`."""
        outputs, slopes = self.layers.slopes(weights, x)
        return outputs, torch.cat([slopes[name] for name in self.shapes], dim=1)


class _Update(_Filter):
    """The graph of `RecursiveGraphs.update`."""

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        v: Tensor,
        weights: Tensors,
        rows: Tensor,
        decays: Tensor,
        v_linearized: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        normal_x, normal_y = self._normalized(x, y)
        outputs, slopes = self.slopes(weights, normal_x)
        if v_linearized is not None:  # the outputs at v, as the network that is linearized elsewhere has them
            outputs = outputs + slopes @ (v - v_linearized).squeeze(0)
        errors, slopes = normal_y.flatten() - outputs, slopes * self.scale
        # The mean is told relative to the present one, so v need not be divided by its scales.
        belief = Belief(self.noise.new_zeros(()), rows, decays)
        gains = belief.times(slopes)
        covariance = gains @ slopes.mT
        found = eliminate(covariance, errors, self.noise, gains, self.gate)
        own = (covariance * torch.eye(len(self.noise))).sum(1).clamp(min=0)
        variance, nis = own + self.noise, squared_errors(found)
        deviations = found.used.sqrt()
        new_rows = found.gains / deviations.unsqueeze(1)
        v_next = v + ((found.errors / deviations).unsqueeze(0) @ new_rows) * self.scale
        raw = [each.reshape(y.shape) for each in (errors, variance)]
        return (
            v_next,
            *folded_weights(self.learner, self.unflatten(v_next)).values(),
            new_rows,
            raw[0] * self.output_scale,
            raw[1] * self.output_scale.square(),
            nis.reshape(1),
        )


class _Deviation(_Filter):
    """The graph `x, *weights, rows, decays -> y, epistemic, total`."""

    def __init__(self, learner: Learner, normalization: Normalization, rule: Recursive) -> None:
        super().__init__(learner, normalization, rule)
        self.variance_scale = rule.variance_scale

    def forward(self, x: Tensor, weights: Tensors, rows: Tensor, decays: Tensor) -> tuple[Tensor, ...]:
        outputs, slopes = self.slopes(weights, self._normalized_x(x))
        slopes = slopes * self.scale
        seen = slopes @ rows.mT
        explained = (seen.square() @ decays.unsqueeze(1)).squeeze(1)
        variance = ((slopes * slopes).sum(1) - explained).clamp(min=0)
        shape = (1, *self.plain.outputs)
        factor = self.variance_scale(decays.sum() / len(self.noise))
        each = (factor * torch.stack([variance, variance + self.noise])).sqrt()
        epistemic, total = (part.reshape(shape) * self.output_scale for part in each.unbind())
        return self.raw(outputs.reshape(shape)), epistemic, total


def _freeze(module: _Filter, examples: dict[str, Any], outputs: list[str]) -> bytes:
    weights = examples["weights"]
    axes = {**dict.fromkeys(examples), "weights": dict.fromkeys(weights)}
    inputs = [each for name in examples for each in (weights if name == "weights" else [name])]
    try:
        traced = Traced(module, examples, ())
    except Exception:
        if not module.plain.own_network:
            raise
        module.flatten(_SAMPLES)
        traced = Traced(module, examples, ())
    return encode(lower(traced, {"arguments": examples}, {"arguments": axes}, inputs, outputs))
