"""Reparameterized modules keep their scale and everything but their weights, report their size, and fold back."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from msr_runtime.meta.symmetry.reparameterize import (
    Form,
    LayerSpec,
    filter_parameter_names,
    fold,
    reparameterize,
)
from msr_runtime.task import Group

# The forms that fit every matrix `(out, in)`: the trivial group of `_trivial` allows every weight.
FORMS: tuple[Form, ...] = ("full", "per-input", "kronecker", "equivariant")


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _nested() -> nn.Sequential:
    inner = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False))
    return nn.Sequential(nn.LayerNorm(5), inner, nn.Linear(3, 2)).double()


def _trivial(module: nn.Module) -> dict[str, Group]:
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    sizes = {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}
    return {name: Group("C1", np.eye(n)[None], np.eye(m)[None]) for name, (n, m) in sizes.items()}


@pytest.mark.parametrize("terms", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_a_layer_keeps_its_scale(form: Form, terms: int) -> None:
    """Weight and bias start with their old norms; a zero bias stays zero."""
    module = _nested()
    nn.init.zeros_(module.get_parameter("2.bias"))
    before = {name: parameter.norm().item() for name, parameter in module.named_parameters()}
    reparameterize(module, filters=3, form=form, terms=terms, actions=_trivial(module))
    for name, weight in fold(module).items():
        assert weight.norm().item() == pytest.approx(before[name], rel=1e-12)
    assert not fold(module)["2.bias"].any()


def test_other_layers_are_left_alone_and_the_report_counts_the_rest() -> None:
    """Nested Linear layers are reparameterized in order. The norm layer and the missing bias are left alone."""
    module = _nested()
    norm = module[0]
    reports = reparameterize(module, filters=6)
    assert [report.name for report in reports] == ["1.0.weight", "1.0.bias", "1.2.weight", "2.weight", "2.bias"]
    assert [report.symmetry_parameters for report in reports] == [20 * 6, 4 * 4, 12 * 6, 6 * 6, 2 * 2]
    assert [report.filter_parameters for report in reports] == [6, 4, 6, 6, 2]
    assert all(report.bytes == 8 * report.symmetry_parameters for report in reports)
    parameters = sum(p.numel() for p in module.parameters()) - sum(p.numel() for p in norm.parameters())
    assert parameters == sum(report.symmetry_parameters + report.filter_parameters for report in reports)
    assert module[0] is norm
    assert filter_parameter_names(module)[0] == "1.0.parametrizations.weight.original"
    assert len(filter_parameter_names(module)) == 5
    assert str(reports[0]).startswith("1.0.weight")


@pytest.mark.parametrize(
    ("layer", "form", "symmetry", "filters"),
    [
        (nn.Linear(5, 4), "full", 20 * 6, 6),
        (nn.Linear(5, 4), "per-input", 4 * 4, 4 * 5),
        (nn.Linear(5, 4), "kronecker", 3 * (16 + 25), 20),
        (nn.Conv1d(6, 4, 5, groups=2), "full", 60 * 6, 6),
        (nn.Conv1d(6, 4, 5, groups=2), "per-input", 20 * 6, 6 * 3),
        (nn.Conv1d(6, 4, 5, groups=2), "kronecker", 3 * (16 + 9 + 25), 60),
        (nn.Conv2d(3, 4, (2, 3)), "full", 72 * 6, 6),
        (nn.Conv2d(3, 4, (2, 3)), "per-input", 24 * 6, 6 * 3),
        (nn.Conv2d(3, 4, (2, 3)), "kronecker", 3 * (16 + 9 + 36), 72),
    ],
    ids=str,
)
def test_the_cost_of_every_form(layer: nn.Module, form: Form, symmetry: int, filters: int) -> None:
    """With k = 6 and R = 3. A bias is a vector and keeps a dense U."""
    weight, bias = reparameterize(layer, filters=6, form=form, terms=3)
    assert (weight.name, weight.form) == ("weight", form)
    assert (weight.symmetry_parameters, weight.filter_parameters) == (symmetry, filters)
    assert weight.bytes == 4 * symmetry
    assert (bias.form, bias.symmetry_parameters, bias.filter_parameters) == ("full", 16, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": "same"},
        {"groups": 2, "stride": 3},
        {"groups": 2, "padding": 2, "dilation": 2, "stride": 2, "bias": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["full", "per-input", "kronecker"])
@pytest.mark.parametrize("axes", [1, 2])
def test_a_convolution_stays_what_it_was(axes: int, form: Form, options: dict[str, Any]) -> None:
    """Stride, padding, dilation and groups are still applied by torch, now to the filter bank U v."""
    layer = (nn.Conv1d(4, 6, 3, **options) if axes == 1 else nn.Conv2d(4, 6, (3, 5), **options)).double()
    reparameterize(layer, filters=7, form=form, terms=3)
    names = filter_parameter_names(layer)
    adapted = {name: layer.get_parameter(name) + 0.1 for name in names}
    x = _random(2, 4, *(13, 11)[:axes])
    folded = fold(layer, adapted)
    convolve = (nn.functional.conv1d, nn.functional.conv2d)[axes - 1]
    plain = {name: value for name, value in options.items() if name != "bias"}
    wanted = convolve(x, folded["weight"], folded.get("bias"), **plain)
    torch.testing.assert_close(functional_call(layer, adapted, (x,)), wanted, rtol=0, atol=1e-12)


def test_a_convolution_pads_as_before() -> None:
    """Other padding modes are kept too: with circular padding, translation commutes across the edge."""
    layer = nn.Conv1d(2, 3, 5, padding=2, padding_mode="circular").double()
    reparameterize(layer, form="per-input")
    x = _random(1, 2, 9)
    torch.testing.assert_close(layer(x.roll(4, -1)), layer(x).roll(4, -1), rtol=0, atol=1e-14)


def test_patterns_choose_the_form_of_each_layer() -> None:
    """The first matching pattern decides, None leaves a layer alone, and other layers have the common form."""
    module = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Conv1d(2, 3, 3), nn.Conv1d(3, 4, 3), nn.Conv1d(4, 4, 3)),
            "trunk": nn.Linear(8, 8),
            "head": nn.Linear(8, 2),
        }
    )
    head, deep = module["head"], LayerSpec(form="kronecker", terms=2)
    patterns = {"encoder.0": LayerSpec(form="per-input", filters=4), "encoder.*": deep, "h*": None}
    reports = reparameterize(module, filters=5, layers=patterns)
    weights = {report.name: report for report in reports if report.name.endswith("weight")}
    assert {name: report.form for name, report in weights.items()} == {
        "encoder.0.weight": "per-input",
        "encoder.1.weight": "kronecker",
        "encoder.2.weight": "kronecker",
        "trunk.weight": "full",
    }
    assert weights["encoder.0.weight"].symmetry_parameters == 9 * 4
    assert weights["encoder.1.weight"].symmetry_parameters == 2 * (16 + 9 + 9)
    assert weights["trunk.weight"].filter_parameters == 5
    assert module["head"] is head
    assert {"head.weight", "head.bias"} <= dict(module.named_parameters()).keys()


def test_what_cannot_be_reparameterized_is_refused() -> None:
    """Invalid numbers, forms, patterns and modules are refused, and the module is unchanged."""
    module = _nested()
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"filters": 0}, "filters\n.* greater than 0"),
        ({"terms": 0}, "terms\n.* greater than 0"),
        ({"form": "round"}, "form\n.* 'full', 'per-input', 'kronecker' or 'equivariant'"),
        ({"layers": {"2": None, "2.x*": None}}, r"the pattern '2\.x\*' matches none of the layers '1\.0', '1\.2', '2'"),
        ({"layers": {"*": None}}, r"all of the layers '1\.0', '1\.2', '2' are to be left alone"),
        ({"layers": {"2": LayerSpec(form="equivariant")}}, "layer '2', a Linear, .* its action is None"),
    )
    for arguments, message in refused:
        with pytest.raises(ValueError, match=message):
            reparameterize(module, **arguments)
        assert not filter_parameter_names(module)
    with pytest.raises(ValueError, match="Tanh holds no Linear, Conv1d or Conv2d"):
        reparameterize(nn.Tanh())
    layer = nn.Linear(2, 2)
    reparameterize(layer)
    with pytest.raises(ValueError, match="not yet reparameterized"):
        reparameterize(layer)


@pytest.mark.parametrize("form", FORMS)
def test_fold_gives_the_weights_that_the_module_computes_with(form: Form) -> None:
    """Folded weights in a plain twin give the module's own outputs, at v0 and at adapted v."""
    module, plain = _nested(), _nested()
    reparameterize(module, form=form, filters=6, actions=_trivial(module))
    adapted = {name: module.get_parameter(name) + 0.1 for name in filter_parameter_names(module)}
    x = _random(9, 5)
    torch.testing.assert_close(functional_call(plain, fold(module), (x,)), module(x), rtol=0, atol=1e-13)
    folded = fold(module, adapted)
    assert set(folded) == {name for name, _ in plain.named_parameters()}
    wanted = functional_call(module, adapted, (x,))
    torch.testing.assert_close(functional_call(plain, folded, (x,)), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_a_saved_module_loads_into_another(form: Form) -> None:
    """The state dict holds all of U and the fixed basis of an equivariant one, under the names `original` and `0`."""
    module, other = _nested(), _nested()
    for each in (module, other):
        reparameterize(each, form=form, filters=6, actions=_trivial(each))
    state = module.state_dict()
    assert any(name.startswith("2.parametrizations.weight.0.") for name in state)
    other.load_state_dict(state)
    x = _random(9, 5)
    assert torch.equal(other(x), module(x))


def test_a_frozen_tensor_stays_frozen_and_as_it_is() -> None:
    """A frozen layer gets no U. Of a layer with a frozen weight, only the bias gets one."""
    module = _nested()
    module[2].requires_grad_(False)
    module.get_parameter("1.0.weight").requires_grad_(False)
    before = {name: module.get_parameter(name) for name in ("2.weight", "2.bias", "1.0.weight")}
    reports = reparameterize(module, filters=3)
    assert [report.name for report in reports] == ["1.0.bias", "1.2.weight"]
    assert all(module.get_parameter(name) is tensor for name, tensor in before.items())
    with pytest.raises(ValueError, match=r"holds no Linear.*not frozen"):
        reparameterize(nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize("tied", ["layers", "embedding"])
def test_tied_weights_are_refused_and_the_module_stays_as_it_was(tied: str) -> None:
    """Two layers with one weight, and an embedding with the weight of the last layer."""
    first = nn.Linear(4, 4) if tied == "layers" else nn.Embedding(4, 4)
    module = nn.ModuleDict({"first": first, "middle": nn.Linear(4, 4), "last": nn.Linear(4, 4)})
    module["last"].weight = first.weight
    before = {name: (tensor, tensor.clone()) for name, tensor in module.named_parameters(remove_duplicate=False)}
    with pytest.raises(ValueError, match=r"'first\.weight' and 'last\.weight' are one tensor"):
        reparameterize(module, filters=3)
    after = dict(module.named_parameters(remove_duplicate=False))
    assert after.keys() == before.keys()
    assert all(after[name] is tensor and after[name].equal(copy) for name, (tensor, copy) in before.items())
    assert reparameterize(
        module, filters=3, layers={"last": None, "first": None} if tied == "layers" else {"last": None}
    )


@pytest.mark.parametrize(
    ("form", "terms", "kept"),
    [("full", 1, True), ("kronecker", 1, True), ("kronecker", 3, False), ("per-input", 1, False)],
)
def test_a_form_keeps_a_pretrained_weight_or_says_that_it_cannot(form: Form, terms: int, kept: bool) -> None:
    """The report holds the change as it is, and with `keep` a form that changes the weight is refused."""
    module = _nested()
    weights = {name: tensor.clone() for name, tensor in module.named_parameters()}
    if kept:
        reports = reparameterize(module, filters=3, form=form, terms=terms, keep=True)
        for name, weight in fold(module).items():
            torch.testing.assert_close(weight, weights[name])
        assert all(str(report).endswith("kept") for report in reports)
        return
    with pytest.raises(ValueError, match=f"form '{form}' would change '1.0.weight' by [0-9]+%"):
        reparameterize(module, filters=3, form=form, terms=terms, keep=True)
    assert all(weights[name].equal(tensor) for name, tensor in module.named_parameters())
    reports = {report.name: report for report in reparameterize(module, filters=3, form=form, terms=terms)}
    seen = (fold(module)["1.0.weight"] - weights["1.0.weight"]).norm() / weights["1.0.weight"].norm()
    assert reports["1.0.weight"].change == pytest.approx(seen.item())
    assert "changed by" in str(reports["1.0.weight"])
