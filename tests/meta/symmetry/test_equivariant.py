"""Maps that commute with a known group: their basis, and networks built from them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from msr_envs.groups import Representation, direct_sum, rotation, shift, trivial
from msr_runtime.meta.networks.mlp import MLP
from msr_runtime.meta.symmetry.equivariant import (
    block_runs,
    equivariant_basis,
    equivariant_dimension,
    mlp_actions,
    multiplication_table,
    regular,
)
from msr_runtime.meta.symmetry.forms import EquivariantSymmetry
from msr_runtime.meta.symmetry.reparameterize import LayerSpec, filter_parameter_names, fold, reparameterize
from msr_runtime.task import Group


def _plane(order: int, reflect: bool) -> Representation:
    """Rotations of the plane, followed by the same rotations of its mirror image if `reflect`."""
    turns = rotation(order)
    return np.concatenate([turns, turns @ np.diag([1.0, -1.0])]) if reflect else turns


def _sign(order: int, reflect: bool) -> Representation:
    """One number whose sign a reflection changes."""
    return np.linalg.det(_plane(order, reflect)).round().reshape(-1, 1, 1)


@st.composite
def actions(draw: st.DrawFn) -> Group:
    """A cyclic or dihedral group on small sums of the plane, signs, trivial and regular representations."""
    order, reflect = draw(st.integers(1, 4)), draw(st.booleans())
    plane = _plane(order, reflect)
    group = Group("drawn", plane, plane)
    kinds = [plane, _sign(order, reflect), trivial(len(plane), 1), regular(group, len(plane))]
    sides = st.lists(st.sampled_from(range(len(kinds))), min_size=1, max_size=2)
    inputs, outputs = (direct_sum(*(kinds[i] for i in draw(sides))) for _ in range(2))
    return Group(f"{'D' if reflect else 'C'}{order}", direct_sum(plane, inputs), outputs)


def _skewed(size: int, rng: np.random.Generator) -> np.ndarray:
    """A coordinate change whose axes differ in length by up to four; a worse one would lose the group to rounding."""
    one, other = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
    return one * rng.uniform(0.5, 2.0, size) @ other


def _defect(group: Group, W: np.ndarray) -> float:
    """Largest entry of `g W - W g` over the group, for W `(..., m, n)`."""
    return max(np.abs(g_out @ W - W @ g_in).max(initial=0) for g_in, g_out in zip(*group[1:], strict=True))


C4 = Group("C4", rotation(4), direct_sum(rotation(4), trivial(4, 1)))
C6 = Group("C6", direct_sum(rotation(6), shift(6), trivial(6, 1)), shift(6))
D4 = Group("D4", _plane(4, True), direct_sum(_plane(4, True), _sign(4, True), trivial(8, 1)))
groups = pytest.mark.parametrize("group", [C4, C6, D4], ids=lambda group: group.name)


@settings(deadline=None, max_examples=40)
@given(actions(), st.booleans(), st.integers(0, 99))
def test_the_basis_spans_exactly_what_commutes(group: Group, skew: bool, seed: int) -> None:
    """The basis is orthonormal and has the size of the constraints' null space, also in skewed coordinates."""
    if skew:
        rng = np.random.default_rng(seed)
        sides = [_skewed(len(side[0]), rng) for side in group[1:]]
        inputs, outputs = (S @ side @ np.linalg.inv(S) for S, side in zip(sides, group[1:], strict=True))
        group = Group(group.name, inputs, outputs)
    m, n = group.outputs.shape[1], group.inputs.shape[1]
    basis = equivariant_basis(group.outputs, group.inputs)
    np.testing.assert_allclose(np.einsum("amn,bmn->ab", basis, basis), np.eye(len(basis)), atol=1e-12)
    assert _defect(group, basis) < 1e-11
    constraints = [
        np.kron(g_out, np.eye(n)) - np.kron(np.eye(m), g_in.T) for g_in, g_out in zip(*group[1:], strict=True)
    ]
    rank = np.linalg.matrix_rank(np.concatenate(constraints), tol=1e-8)
    assert len(basis) == equivariant_dimension(group.outputs, group.inputs) == m * n - rank


@settings(deadline=None, max_examples=30)
@given(actions(), st.integers(1, 40))
def test_the_form_commutes_and_loses_nothing(group: Group, filters: int) -> None:
    """Any U and v give an equivariant weight. With enough filters, every equivariant weight is reached."""
    space = equivariant_dimension(group.outputs, group.inputs)
    weight = torch.randn(group.outputs.shape[1], group.inputs.shape[1], dtype=torch.float64)
    if not space:
        with pytest.raises(ValueError, match="but zero commutes"):
            EquivariantSymmetry(weight, filters, group)
        return
    symmetry = EquivariantSymmetry(weight, filters, group)
    v = torch.randn(symmetry.filter_shape, dtype=torch.float64)
    assert symmetry.filter_shape == (min(filters, space),)
    assert _defect(group, symmetry(v).detach().numpy()) < 1e-12 * float(v.norm() * symmetry.gain())
    start = symmetry.right_inverse(weight)  # along U's first column, which is the nearest equivariant weight
    assert not (start[1:].abs() > 1e-12 * weight.norm()).any()
    if filters >= space:
        wanted = torch.tensor(equivariant_basis(group.outputs, group.inputs)[0])
        reached = symmetry(symmetry.right_inverse(wanted))
        torch.testing.assert_close(reached, wanted, rtol=0, atol=1e-12)


@given(actions())
@settings(deadline=None, max_examples=30)
def test_runs_put_together_are_the_representation(group: Group) -> None:
    """Cutting a representation into blocks loses nothing."""
    for side in group[1:]:
        blocks = [run.block for run in block_runs(side) for _ in range(run.copies)]
        np.testing.assert_allclose(direct_sum(*blocks), side, atol=1e-12)


def test_runs_are_as_small_as_can_be() -> None:
    """Equal neighboring blocks form one run. Equal blocks that are not neighbors do not."""
    found = block_runs(direct_sum(rotation(4), rotation(4), trivial(4, 2), rotation(4)))
    assert [(run.block.shape[1], run.copies) for run in found] == [(2, 2), (1, 2), (2, 1)]


@groups
def test_the_regular_representation_permutes_and_multiplies(group: Group) -> None:
    """It permutes the entries within each copy, and its matrices multiply as the elements do."""
    table = multiplication_table(group)
    order = len(table)
    matrices = regular(group, 2 * order)
    assert set(matrices.flat) == {0.0, 1.0}
    assert (matrices.sum(1) == 1).all()
    np.testing.assert_array_equal(matrices[table], matrices[:, None] @ matrices)
    assert [run.copies for run in block_runs(matrices)] == [2]


@groups
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_a_network_is_equivariant_whatever_u_and_v_are(group: Group, dtype: torch.dtype, tolerance: float) -> None:
    """Two hidden layers of regular representations with SiLU between them; U, v and biases are random."""
    torch.manual_seed(0)
    inputs, outputs = group.inputs.shape[1], group.outputs.shape[1]
    network = MLP((inputs,), (outputs,), [3 * group.order] * 2).to(dtype)
    reports = reparameterize(network, filters=7, form="equivariant", actions=mlp_actions(network, group))
    assert {report.form for report in reports} == {"equivariant"}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
        x = torch.randn(20, inputs, dtype=dtype)
        y = network(x)
        assert y.isfinite().all()
        for g_in, g_out in zip(*(torch.tensor(side, dtype=dtype) for side in group[1:]), strict=True):
            assert (network(x @ g_in.mT) - y @ g_out.mT).norm() <= tolerance * y.norm()


def test_a_bias_that_the_group_forbids_is_held_at_zero() -> None:
    """No vector of the plane stays fixed under rotation: the last bias is zero, does not learn, and folds to zero."""
    group = Group("C4", rotation(4), rotation(4))
    network = MLP((2,), (2,), [8])
    nn.init.ones_(network.get_parameter("layers.1.bias"))
    reports = reparameterize(network, form="equivariant", actions=mlp_actions(network, group))
    assert [report.form for report in reports] == ["equivariant"] * 3 + ["zero"]
    assert (reports[3].symmetry_parameters, reports[3].filter_parameters, reports[3].bytes) == (0, 0, 0)
    assert not network.get_parameter("layers.1.bias").requires_grad
    folded = fold(network)
    assert not folded["layers.1.bias"].any()
    assert len(filter_parameter_names(network)) == 3
    x = torch.randn(5, 2)
    torch.testing.assert_close(functional_call(MLP((2,), (2,), [8]), folded, (x,)), network(x))


def test_a_hidden_layer_costs_the_basis_of_one_pair_of_blocks() -> None:
    """U has one row per equivariant map, 1/order of the weight's numbers. Q does not grow with the width."""
    network = MLP((6,), (6,), [60] * 2)
    group = Group("C6", shift(6), shift(6))
    report = reparameterize(network, filters=10, form="equivariant", actions=mlp_actions(network, group))[2]
    assert (report.name, report.symmetry_parameters, report.filter_parameters) == ("layers.1.weight", 6000, 10)
    assert report.bytes == 4 * (6000 + 6 * 36)


def _changed(group: Group, element: int, entry: float) -> Group:
    outputs = group.outputs.copy()
    outputs[element, 0, 0] = entry
    return group._replace(outputs=outputs)


TURNS = Group("C4", rotation(4), rotation(4))


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (_changed(TURNS, 1, 0.25), r"element 1 times element . is none of the 4 elements: .* is off by 0\.2"),
        (Group("C4", rotation(4)[:3], rotation(4)[:3]), "element 1 times element 2 is none of the 3 elements"),
        (_changed(TURNS, 2, np.nan), "element 2 of its outputs holds a number that is not finite"),
        (Group("C4", rotation(4)[1:], rotation(4)[1:]), "element 0 must be the identity, but is off by 1"),
        (Group("C4", trivial(4, 2), trivial(4, 1)), "element 0 times two different elements gives the same"),
        (Group("P", np.array([[[1.0]], [[0.0]]]), trivial(2, 1)), "element 1 times two different elements"),
        (Group("C4", rotation(4), rotation(8)), r"its outputs have shape \(8, 2, 2\)"),
        (Group("C4", rotation(4)[0], rotation(4)), r"its inputs have shape \(2, 2\)"),
        (Group("C4", rotation(4)[:0], rotation(4)[:0]), r"its inputs have shape \(0, 2, 2\)"),
        (Group("C4", rotation(4), rotation(4)[:, :1]), r"its outputs have shape \(4, 1, 2\)"),
    ],
)
def test_matrices_that_are_no_representation_are_refused(group: Group, message: str) -> None:
    """The message names the element and the size of the error."""
    with pytest.raises(ValueError, match=message):
        multiplication_table(group)
    with pytest.raises(ValueError, match=message):
        EquivariantSymmetry(torch.zeros(2, 2), 3, group)


def test_layers_that_no_group_fits_are_refused_and_left_as_they_were() -> None:
    """Wrong widths, broken chains, sides that the group does not relate, missing actions, convolutions."""
    with pytest.raises(ValueError, match=r"10 wide .* multiple of its order 4, for example 8"):
        mlp_actions(MLP((2,), (3,), [10]), C4)
    with pytest.raises(ValueError, match="Tanh holds no Linear layer for group 'C4'"):
        mlp_actions(nn.Tanh(), C4)
    with pytest.raises(ValueError, match="'0' writes 4 numbers and '1' reads 8"):
        mlp_actions(nn.Sequential(nn.Linear(2, 4), nn.Linear(8, 3)), C4)
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1), nn.Conv1d(1, 1, 1))
    spec = LayerSpec(form="equivariant")
    apart = Group("C4", rotation(4), trivial(4, 1))
    for layers, named, message in (
        ({"2": None}, {"0": TURNS, "1": TURNS}, r"'1' cannot be equivariant: .* shape \(2, 2\).* shape \(1, 2\)"),
        ({"2": None}, {"0": TURNS, "1": apart}, r"'1' cannot be equivariant: no tensor of shape \(1, 2\) but zero"),
        ({"2": None}, {"0": TURNS}, "'1', a Linear, .* its action is None"),
        ({"[01]": None}, {"2": TURNS}, "'2', a Conv1d, .* its action is C4"),
        ({}, {"3": TURNS}, "given for '3', which is none of the layers '0', '1', '2'"),
    ):
        before = dict(network.named_parameters())
        with pytest.raises(ValueError, match=message):
            reparameterize(network, layers={**layers, "*": spec}, actions=named)
        assert dict(network.named_parameters()).keys() == before.keys()
