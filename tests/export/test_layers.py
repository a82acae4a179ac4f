"""The Jacobian layer by layer has the numbers of the Jacobian row by row, and does what does not suit it row by row."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from msr_export.folding import folded_weights
from msr_export.layers import LayerByLayer
from msr_export.precision import sum_dtype
from msr_runtime.inference.session import make_session
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import ANIL, MAML, MSR
from msr_runtime.meta.rules.gauss_newton import GaussNewton
from msr_runtime.meta.rules.recursive import Recursive
from msr_runtime.meta.symmetry.reparameterize import fold
from msr_runtime.task import Group, Loss

_SHOTS = 5
_TURNS = np.stack([np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), count) for count in range(4)])
_GROUP = Group("C4", np.stack([np.kron(np.eye(2), turn) for turn in _TURNS]), _TURNS)


def _learner(method: type[Learner], loss: Loss = "mse", inputs: tuple[int, ...] = (4,), **changes: object) -> Learner:
    torch.manual_seed(0)
    known = {"width": 8, "depth": 2, "filters": 5, "rule": "gauss-newton"}
    learner = method(LearnerConfig.model_validate(known | changes), inputs, (2,), loss, _GROUP)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return learner.double().eval()


def _plain(learner: Learner) -> Learner:
    plain = copy.deepcopy(learner)
    for layer in plain.network.modules():
        for name in [*getattr(layer, "parametrizations", {})]:
            nn.utils.parametrize.remove_parametrizations(layer, name)
    return plain


def _compared(learner: Learner) -> set[str]:
    """Compare the sums both ways. Returns the weights and biases that went layer by layer."""
    x = torch.randn(_SHOTS, *learner.inputs, dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0, 1]) if learner.classifies else torch.randn(_SHOTS, 2, dtype=torch.float64)
    rule, adapted = learner.rule, learner.start()
    assert isinstance(rule, GaussNewton)
    wanted = rule.sums(learner.forward, learner.loss, adapted, x, y)
    changed = copy.deepcopy(learner)
    layers = LayerByLayer(changed, _plain(learner))
    seen = rule.sums(layers.forward, learner.loss, changed.start(), x, y, backwards=layers.jacobian)
    torch.testing.assert_close(seen, wanted, rtol=1e-9, atol=1e-12)
    for name, weight in fold(changed.network).items():
        torch.testing.assert_close(weight, fold(learner.network)[name])
    return layers.names


_ALL = {f"layers.{index}.{tensor}" for index in range(3) for tensor in ("weight", "bias")}


@pytest.mark.parametrize("loss", ["mse", "huber", "cross_entropy"])
@pytest.mark.parametrize("form", ["full", "per-input", "kronecker"])
def test_every_form_of_u_goes_layer_by_layer(form: str, loss: Loss) -> None:
    assert _compared(_learner(MSR, loss, form=form, terms=2)) == _ALL
    assert _compared(_learner(MSR, loss, form=form, bias=False)) == {name for name in _ALL if "weight" in name}


@pytest.mark.parametrize(
    ("learner", "names"),
    [
        (lambda: _learner(MSR, form="equivariant"), set()),
        (lambda: _learner(MAML), set()),
        (lambda: _learner(MSR, rule="ridge", depth=0), {"layers.0.weight", "layers.0.bias"}),
        (lambda: _learner(ANIL, reparameterized=True), {"layers.2.weight", "layers.2.bias"}),
    ],
    ids=["equivariant", "no U", "ridge", "one layer adapts"],
)
def test_other_tensors_go_row_by_row(learner: Callable[[], Learner], names: set[str]) -> None:
    assert _compared(learner()) == names


def test_a_convolution_goes_row_by_row_and_its_last_layer_by_layer() -> None:
    learner = _learner(MSR, inputs=(1, 6, 6), network="conv", depth=1, width=3)
    names = _compared(learner)
    last = max(name for name, layer in learner.network.named_modules() if isinstance(layer, nn.Linear))
    assert names == {f"{last}.weight", f"{last}.bias"}


class _Own(nn.Module):
    """A network that reads the weight of its first layer in some way of its own."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.read, self.first, self.last = read, nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh() if self.read != "axes" else self.first(x.unsqueeze(1)).squeeze(1).tanh()
        if self.read == "twice":
            h = self.first(h).tanh()
        if self.read == "beside":
            h = h + x @ self.first.weight
        if self.read == "bias":
            h = h + self.first.bias
        if self.read == "keywords":
            h = nn.functional.linear(input=h, weight=self.first.weight)
        return self.last(h)


@pytest.mark.parametrize("read", ["twice", "beside", "axes", "bias", "keywords"])
def test_a_layer_that_is_not_passed_once_goes_row_by_row(read: str) -> None:
    class Own(MSR):
        def build_network(self) -> nn.Module:
            return _Own(read)

    names = {"last.weight", "last.bias"} | ({"first.weight"} if read == "bias" else set())
    assert _compared(_learner(Own)) == names


@pytest.mark.parametrize(
    ("form", "damping", "dtype"),
    [("full", 1e-3, torch.float64), ("per-input", 0.1, torch.float32), ("kronecker", 0.1, torch.float32)],
)
def test_the_graph_sums_in_the_dtype_that_the_damping_asks_for(
    exporter, form: str, damping: float, dtype: torch.dtype
) -> None:
    """Several layers with much damping are exported by the tests of many samples."""
    export = exporter.exported("msr", "mse", form, rule="ridge", depth=0, damping=damping)
    learner, rule = export.learner, export.learner.rule
    assert sum_dtype(learner, rule) == dtype
    (last,) = (node for node in onnx.load_from_string(export.frozen.sums).graph.node if "sums" in node.output)
    assert (last.op_type == "Cast") == (dtype == torch.float32)
    _check_sums(exporter, export)


@pytest.mark.parametrize(("rule", "depth"), [("gauss-newton", 1), ("ridge", 0)])
def test_graphs_of_an_equivariant_learner_hold_for_any_number_of_samples(exporter, rule: str, depth: int) -> None:
    """Its fold splits v and concatenates blocks, whose gradients fix the number under torch's `vmap`."""
    export = exporter.exported("msr", "mse", "equivariant", rule=rule, depth=depth, width=4, damping=0.1)
    _check_sums(exporter, export)
    exporter.assert_updates_of_right_size(export)


def _check_sums(exporter: Any, export: Any) -> None:
    """Compare the graph of the sums with torch, at another number of samples than that of its trace."""
    learner, rule = export.learner, export.learner.rule
    x, y = exporter.draw(export, 40)
    session = make_session(export.frozen.sums, "sums.onnx", ("CPUExecutionProvider",))
    seen = np.asarray(session.run(["sums"], {"support_x": x, "support_y": y, "v": export.frozen.v0})[0])
    normal = map(torch.from_numpy, export.normalization.normalize(x, y))
    with torch.no_grad():
        sums, _ = rule.sums(learner.forward, learner.loss, learner.start(), *normal)
    wanted = np.triu(sums.numpy())
    assert seen.dtype == np.float64
    assert np.abs(np.triu(seen) - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (MSR, {}),
        (MSR, {"form": "per-input"}),
        (MSR, {"form": "kronecker", "terms": 2}),
        (MSR, {"form": "equivariant"}),
        (MSR, {"network": "conv", "inputs": (2, 6)}),
        (MAML, {}),
        (ANIL, {"reparameterized": True}),
    ],
)
def test_slopes_of_one_sample_are_those_of_the_rule(method: type[Learner], changes: dict[str, Any]) -> None:
    """Whether a tensor goes layer by layer or row by row; from the folded weights, and not from v."""
    given: dict[str, Any] = {"rule": "recursive"} | changes
    learner = _learner(method, **given)
    rule = learner.rule
    assert isinstance(rule, Recursive)
    changed, start = copy.deepcopy(learner), learner.start()
    x = torch.randn(1, *learner.inputs, dtype=torch.float64)
    moved = rule.tensors(start, torch.randn(learner.adapted_size(), dtype=torch.float64))
    mean = torch.cat([(moved[name] - start[name]).flatten() / rule.scales()[name] for name in rule.names])
    wanted, wanted_slopes = rule.linearize(learner.forward, start, mean, x[0])
    weights = folded_weights(learner, moved)
    outputs, slopes = LayerByLayer(changed, _plain(learner)).slopes(weights, x)
    torch.testing.assert_close(outputs, wanted, rtol=1e-9, atol=1e-12)
    scaled = torch.cat([slopes[name] * rule.scales()[name] for name in rule.names], dim=1)
    torch.testing.assert_close(scaled, wanted_slopes, rtol=1e-9, atol=1e-12)
