"""A learner as two ONNX graphs: predict, with the folded weights as inputs, and one inner step, with U as a constant.

Both take and return raw units. The gradient is traced by `make_fx` before the export, because the exporter cannot see
through `torch.func.grad`, with U as an argument of the trace that is bound as a buffer afterwards.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnxscript import optimizer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from msr_export.gradients import trace
from msr_runtime.errors import ExportError
from msr_runtime.meta.inner import Tensors, inner_step
from msr_runtime.meta.learners import Learner
from msr_runtime.meta.normalization import Normalization
from msr_runtime.meta.symmetry import fold
from msr_runtime.task import Array

OPSET, IR_VERSION = 18, 8
OLDEST_ONNXRUNTIME = "1.14"
"""The first ONNX Runtime that implements ONNX 1.13, to which opset 18 and IR version 8 belong."""
_EXAMPLES = 7  # length of the dynamic axis while tracing: torch would take 1 for a constant


class Frozen(NamedTuple):
    """A learner's graphs and where they start."""

    predict: bytes
    """ONNX: x `(batch, x)` and the weights, by default those at v0, to y `(batch, y)`."""
    adapt: bytes
    """ONNX: support x `(shots, x)`, support y and v `(1, K)` to v_next `(1, K)`, the weights there, the loss at v."""
    v0: Array
    """`(1, K)`."""
    weights: dict[str, tuple[int, ...]]
    """Name and shape of the folded weights, in the order of adapt's outputs."""


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
    """Freeze a learner, float32 on the CPU, into its two graphs.

    Raises:
        ExportError: the learner holds a number that is not finite, or an operation that cannot be written in ONNX.

    """
    for name, tensor in learner.state_dict().items():
        if not tensor.isfinite().all():
            raise ExportError(f"'{name}' of the learner is not finite; its meta-training has diverged, train it anew")
    with torch.no_grad():
        start = learner.start()
        v0, weights = flatten(learner, start), folded_weights(learner, start)
    return Frozen(
        predict=_freeze_predict(learner, normalization, weights),
        adapt=_freeze_adapt(learner, normalization, v0, list(weights)),
        v0=v0.numpy(),
        weights={name: tuple(weight.shape) for name, weight in weights.items()},
    )


class _Scaled(nn.Module):
    """What both graphs share: a learner between raw and normalised units."""

    input_center: Tensor
    input_scale: Tensor
    output_center: Tensor
    output_scale: Tensor

    def __init__(self, learner: Learner, normalization: Normalization) -> None:
        super().__init__()
        self.learner = learner
        for name, values in normalization.model_dump().items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def normalized_x(self, x: Tensor) -> Tensor:
        return (x - self.input_center) / self.input_scale

    def normalized_y(self, y: Tensor) -> Tensor:
        return y if self.learner.classifies else (y - self.output_center) / self.output_scale

    def raw_y(self, y: Tensor) -> Tensor:
        return y if self.learner.classifies else y * self.output_scale + self.output_center


class _Predict(_Scaled):
    """`x, weights -> y`, with no U in it."""

    def __init__(self, learner: Learner, normalization: Normalization) -> None:
        super().__init__(copy.deepcopy(learner), normalization)
        for layer in list(self.learner.network.modules()):
            if parametrize.is_parametrized(layer):
                _remove_parametrizations(layer)

    def forward(self, x: Tensor, weights: Tensors) -> Tensor:
        return self.raw_y(self.learner(weights, self.normalized_x(x)))


def _remove_parametrizations(layer: nn.Module) -> None:
    """Make the parametrized tensors of a copied layer plain parameters again.

    torch's own function would take the tensors off the class, which the copy shares with the learner that it is of.
    """
    tensors = {name: getattr(layer, name).detach() for name in layer.parametrizations}  # type: ignore[union-attr]
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    for name, tensor in tensors.items():
        layer.register_parameter(name, nn.Parameter(tensor))


class _Step(_Scaled):
    """`support_x, support_y, v -> v_next, *weights, loss`."""

    rates: Tensor

    def __init__(self, learner: Learner, normalization: Normalization) -> None:
        super().__init__(learner, normalization)
        start = learner.start()
        self.shapes = {name: start[name].shape for name in learner.adapted_names}
        rates = {name: rate.expand(self.shapes[name]) for name, rate in learner.rates().items()}
        self.register_buffer("rates", flatten(learner, rates))

    def unflatten(self, v: Tensor) -> Tensors:
        parts = v.split([shape.numel() for shape in self.shapes.values()], dim=1)
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def forward(self, support_x: Tensor, support_y: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        x, y = self.normalized_x(support_x), self.normalized_y(support_y)
        # As one row and its row of rates, the step is one multiplication and one subtraction for all tensors.
        stepped, loss = inner_step(
            lambda row: self.learner.support_loss(self.unflatten(row["v"]), x, y), {"v": v}, {"v": self.rates}
        )
        weights = folded_weights(self.learner, self.unflatten(stepped["v"]))
        return stepped["v"], *weights.values(), loss


class _Bound(nn.Module):
    """A traced function whose constants are buffers again."""

    def __init__(self, graph: nn.Module, constants: Tensors) -> None:
        super().__init__()
        self.graph = graph
        self.names = list(constants)
        for index, constant in enumerate(constants.values()):
            self.register_buffer(f"constant_{index}", constant)

    def forward(self, support_x: Tensor, support_y: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        constants = {name: getattr(self, f"constant_{index}") for index, name in enumerate(self.names)}
        return self.graph(constants, support_x, support_y, v)


def _freeze_predict(learner: Learner, normalization: Normalization, weights: Tensors) -> bytes:
    examples = {"x": torch.randn(_EXAMPLES, learner.inputs), "weights": weights}
    axes = {"x": {0: torch.export.Dim("batch")}, "weights": dict.fromkeys(weights)}
    model = _export(_Predict(learner, normalization), examples, axes, ["x", *weights], ["y"])
    for name, weight in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight.detach().numpy()), name))
    return _encode(model)


def _freeze_adapt(learner: Learner, normalization: Normalization, v0: Tensor, weights: list[str]) -> bytes:
    step = _Step(learner, normalization)
    # What adapts comes in as v, and the rates are a row already: the rest of the learner is constant.
    passed = {f"learner.network.{name}" for name in learner.adapted_names}
    tensors = {**dict(step.named_parameters()), **dict(step.named_buffers())}
    constants = {
        name: tensor.detach()
        for name, tensor in tensors.items()
        if name not in passed and not name.startswith("learner.rate_parameters.")
    }
    x = torch.randn(_EXAMPLES, learner.inputs)
    y = torch.randint(learner.outputs, (_EXAMPLES,)) if learner.classifies else torch.randn(_EXAMPLES, learner.outputs)

    def function(constants: Tensors, support_x: Tensor, support_y: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return functional_call(step, constants, (support_x, support_y, v))

    examples = {"support_x": x, "support_y": y, "v": v0}
    graph = trace(function, constants, x, y, v0)
    shots = {0: torch.export.Dim("shots")}
    axes = {"support_x": shots, "support_y": shots, "v": None}
    inputs, outputs = ["support_x", "support_y", "v"], ["v_next", *weights, "loss"]
    return _encode(_export(_Bound(graph, constants), examples, axes, inputs, outputs))


def _export(
    module: nn.Module, examples: dict[str, Any], axes: dict[str, Any], inputs: list[str], outputs: list[str]
) -> onnx.ModelProto:
    try:
        with _quiet():
            program = torch.onnx.export(
                module.eval(),
                kwargs=examples,
                dynamo=True,
                verbose=False,
                optimize=False,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=axes,
            )
            assert program is not None
            # A transposed U folded into a constant would be a second copy of it in the file.
            optimizer.optimize_ir(
                program.model, should_fold=lambda node: False if node.op_type == "Transpose" else None
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(
            f"the graph of {outputs[0]} cannot be written in ONNX: {str(error.__cause__ or error)[:300]}; most likely "
            "the learner holds a layer or a loss whose gradient has no ONNX form"
        ) from error
    return program.model_proto


def _encode(model: onnx.ModelProto) -> bytes:
    """The model's bytes, free of what is not the model: where it was traced, and types of what lies between."""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says of itself: deprecated calls inside torch, and that torchvision is not there."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", message=".*The axis name: shots will not be used")
            yield
    finally:
        logger.setLevel(level)
