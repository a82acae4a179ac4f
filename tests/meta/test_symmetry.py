"""Reparameterized layers compute `W = reshape(U v)`, keep their scale and fold back into plain weights."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from msr_runtime.meta.symmetry import (
    FullSymmetry,
    KroneckerSymmetry,
    filter_parameter_names,
    fold,
    reparameterize,
)

SHAPE = (4, 3)


def _weight(*shape: int) -> Tensor:
    return torch.randn(*shape or SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _moved(symmetry: nn.Module) -> nn.Module:
    """Factors away from their special starts."""
    with torch.no_grad():
        for factor in symmetry.parameters():
            factor += 0.3 * torch.randn_like(factor)
    return symmetry


def _nested() -> nn.Sequential:
    inner = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False))
    return nn.Sequential(nn.LayerNorm(5), inner, nn.Linear(3, 2)).double()


def test_full_form_is_its_definition() -> None:
    """W is U v, reshaped row by row."""
    symmetry, v = FullSymmetry(_weight(), 5), _weight(5)
    torch.testing.assert_close(symmetry(v), (symmetry.U @ v).reshape(SHAPE), rtol=0, atol=1e-14)
    lengths = torch.full((5,), symmetry.gain(), dtype=torch.float64)
    torch.testing.assert_close(symmetry.U.mT @ symmetry.U, lengths.diag())


@pytest.mark.parametrize("terms", [1, 3])
def test_kronecker_form_is_a_sum_of_kronecker_products(terms: int) -> None:
    """Row-major vec(A V Bᵀ) is (A kron B) vec(V), summed over the terms."""
    symmetry, V = KroneckerSymmetry(_weight(), terms), _weight()
    _moved(symmetry)
    U = torch.stack([torch.kron(a, b) for a, b in zip(symmetry.A, symmetry.B, strict=True)]).sum(0)
    torch.testing.assert_close(symmetry(V).reshape(-1), U @ V.reshape(-1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("terms", [0, 1, 3], ids=["full", "kronecker 1", "kronecker 3"])
def test_the_gain_is_the_mean_squared_length_of_the_columns(terms: int) -> None:
    """At the start; U's columns are what unit filter parameters give."""
    symmetry = KroneckerSymmetry(_weight(), terms) if terms else FullSymmetry(_weight(), 5)
    shape = symmetry.right_inverse(_weight()).shape
    units = torch.eye(shape.numel(), dtype=torch.float64).unflatten(1, shape)
    lengths = torch.stack([symmetry(unit).detach().square().sum() for unit in units])
    assert symmetry.gain() == pytest.approx(float(lengths.mean()), rel=1e-12)


@pytest.mark.parametrize("terms", [0, 1, 3], ids=["full", "kronecker 1", "kronecker 3"])
def test_gradients_of_factors_and_filters(terms: int) -> None:
    """Both forms differentiate correctly, twice, in U or A and B, and in v."""
    symmetry = KroneckerSymmetry(_weight(), terms) if terms else FullSymmetry(_weight(), 5)
    _moved(symmetry)
    names, factors = zip(*symmetry.named_parameters(), strict=True)
    v = symmetry.right_inverse(_weight()).requires_grad_()

    def weight(v: Tensor, *factors: Tensor) -> Tensor:
        return functional_call(symmetry, dict(zip(names, factors, strict=True)), (v,))

    assert torch.autograd.gradcheck(weight, (v, *factors))
    assert torch.autograd.gradgradcheck(weight, (v, *factors))


@pytest.mark.parametrize("filters", [1, 6, 99])
def test_full_form_keeps_the_norm_of_the_weight(filters: int) -> None:
    """However few the filter parameters, the layer keeps its scale; a zero bias stays zero."""
    layer = nn.Linear(7, 6).double()
    nn.init.zeros_(layer.bias)
    norm = layer.weight.norm().item()
    reparameterize(layer, filters=filters)
    assert layer.weight.norm().item() == pytest.approx(norm, rel=1e-12)
    assert not layer.bias.any()


def test_one_kronecker_term_keeps_the_weight_and_several_keep_its_scale() -> None:
    """One term starts as the identity; three random ones keep the norm on average."""
    weight = _weight(40, 30)
    torch.manual_seed(0)
    for terms, tolerance in ((1, 0.0), (3, 0.15)):
        symmetry = KroneckerSymmetry(weight, terms)
        folded = symmetry(symmetry.right_inverse(weight))
        assert abs(folded.norm() / weight.norm() - 1) <= tolerance


def test_only_linear_layers_change_and_the_report_counts_them() -> None:
    """Nested Linear layers are reparameterized in order; the norm and the missing bias are left alone."""
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
    assert len(filter_parameter_names(module)) == 5
    assert str(reports[0]).startswith("1.0.weight")


def test_kronecker_reports_the_factors_and_leaves_biases_full() -> None:
    """A weight of shape (m, n) costs R (m² + n²); its bias, a vector, keeps a dense U."""
    weight, bias = reparameterize(nn.Linear(5, 4), form="kronecker", terms=3)
    assert (weight.name, weight.form, weight.symmetry_parameters) == ("weight", "kronecker", 3 * (16 + 25))
    assert (weight.filter_parameters, bias.form, bias.filter_parameters) == (20, "full", 4)


def test_what_cannot_be_reparameterized_is_refused() -> None:
    """No filter, no term, no Linear layer, and no second time."""
    for filters, terms in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            reparameterize(nn.Linear(2, 2), filters=filters, terms=terms)
    with pytest.raises(ValueError, match="Tanh holds no Linear"):
        reparameterize(nn.Tanh())
    layer = nn.Linear(2, 2)
    reparameterize(layer)
    with pytest.raises(ValueError, match="not yet reparameterized"):
        reparameterize(layer)


@pytest.mark.parametrize("form", ["full", "kronecker"])
def test_fold_gives_the_weights_that_the_module_computes_with(form) -> None:
    """The folded weights, put into a plain twin, give the module's own outputs, at v0 and at adapted v."""
    module, plain = _nested(), _nested()
    reparameterize(module, form=form, filters=6)
    adapted = {name: module.get_parameter(name) + 0.1 for name in filter_parameter_names(module)}
    x = _weight(9, 5)
    torch.testing.assert_close(functional_call(plain, fold(module), (x,)), module(x), rtol=0, atol=1e-13)
    folded = fold(module, adapted)
    assert set(folded) == {name for name, _ in plain.named_parameters()}
    wanted = functional_call(module, adapted, (x,))
    torch.testing.assert_close(functional_call(plain, folded, (x,)), wanted, rtol=0, atol=1e-13)
