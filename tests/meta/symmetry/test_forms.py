"""Every form of the symmetry matrix computes `W = reshape(U v)` with the U of its definition."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from msr_envs.groups import direct_sum, rotation, shift, trivial
from msr_runtime.meta.symmetry.equivariant import block_runs, equivariant_basis
from msr_runtime.meta.symmetry.forms import (
    EquivariantSymmetry,
    FullSymmetry,
    KroneckerSymmetry,
    PerInputSymmetry,
    Symmetry,
)
from msr_runtime.task import Group

MATRIX, SIGNAL_BANK, IMAGE_BANK = (4, 3), (3, 2, 3), (3, 2, 2, 2)

ALTERNATING = np.array([1.0, -1.0, 1.0, -1.0]).reshape(4, 1, 1)
# Both sides have runs of one and of several blocks. Between some pairs of blocks only zero is equivariant.
MIXED = Group(
    "C4",
    direct_sum(rotation(4), ALTERNATING, trivial(4, 2)),
    direct_sum(trivial(4, 1), rotation(4), rotation(4), shift(4)),
)

FORMS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Symmetry]]] = {
    "full, matrix": (MATRIX, lambda weight: FullSymmetry(weight, 5)),
    "full, vector": ((4,), lambda weight: FullSymmetry(weight, 9)),
    "full, bank of signals": (SIGNAL_BANK, lambda weight: FullSymmetry(weight, 5)),
    "full, bank of images": (IMAGE_BANK, lambda weight: FullSymmetry(weight, 5)),
    "per input, matrix": (MATRIX, lambda weight: PerInputSymmetry(weight, 2)),
    "per input, bank of signals": (SIGNAL_BANK, lambda weight: PerInputSymmetry(weight, 5)),
    "per input, bank of images": (IMAGE_BANK, lambda weight: PerInputSymmetry(weight, 4)),
    "kronecker, matrix": (MATRIX, lambda weight: KroneckerSymmetry(weight, 1)),
    "kronecker sum, matrix": (MATRIX, lambda weight: KroneckerSymmetry(weight, 3)),
    "kronecker, bank of signals": (SIGNAL_BANK, lambda weight: KroneckerSymmetry(weight, 1)),
    "kronecker sum, bank of images": (IMAGE_BANK, lambda weight: KroneckerSymmetry(weight, 2)),
    "equivariant, matrix": ((9, 5), lambda weight: EquivariantSymmetry(weight, 6, MIXED)),
    "equivariant, vector": ((9,), lambda weight: EquivariantSymmetry(weight, 6, MIXED)),
}
every_form = pytest.mark.parametrize("form", FORMS)


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _make(form: str, dtype: torch.dtype = torch.float64) -> tuple[Symmetry, Tensor, Tensor]:
    """A form with random factors instead of its special start, filter parameters for it, and the replaced weight."""
    shape, make = FORMS[form]
    torch.manual_seed(0)
    weight = _random(*shape, dtype=dtype)
    symmetry = make(weight)
    with torch.no_grad():
        for factor in symmetry.parameters():
            factor += 0.3 * torch.randn_like(factor)
    return symmetry, _random(*symmetry.filter_shape, seed=1, dtype=dtype), weight


def _definition(symmetry: Symmetry, weight: Tensor) -> Tensor:
    """U `(weight.numel(), v.numel())`, written out."""
    if isinstance(symmetry, KroneckerSymmetry):
        terms = zip(*symmetry.parameters(), strict=True)
        return torch.stack([_kron(*factors) for factors in terms]).sum(0)
    assert isinstance(symmetry, FullSymmetry)
    if isinstance(symmetry, PerInputSymmetry):
        channels = weight.shape[1]
        U = _kron(symmetry.U, torch.eye(channels, dtype=weight.dtype))  # rows (out, taps, in)
        return U.unflatten(0, (weight.shape[0], -1, channels)).transpose(1, 2).flatten(0, 2)
    if isinstance(symmetry, EquivariantSymmetry):
        Q = _basis(MIXED.outputs, MIXED.inputs if weight.ndim == 2 else trivial(4, 1))
        return Q.to(weight.dtype) @ symmetry.U
    return symmetry.U


def _kron(*factors: Tensor) -> Tensor:
    result = factors[0]
    for factor in factors[1:]:
        result = torch.kron(result, factor)
    return result


def _basis(outputs: np.ndarray, inputs: np.ndarray) -> Tensor:
    """Q `(m n, d)`: the basis of every pair of blocks, placed where this pair lies in W."""
    columns, row_start = [], 0
    for row in block_runs(outputs):
        m, column_start = row.block.shape[1], 0
        for column in block_runs(inputs):
            n = column.block.shape[1]
            for a, b in product(range(row.copies), range(column.copies)):
                for block in equivariant_basis(row.block, column.block):
                    W = np.zeros((outputs.shape[1], inputs.shape[1]))
                    top, left = row_start + a * m, column_start + b * n
                    W[top : top + m, left : left + n] = block
                    columns.append(W.reshape(-1))
            column_start += column.copies * n
        row_start += row.copies * m
    return torch.tensor(np.stack(columns, axis=1))


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_form_is_its_definition(form: str, dtype: torch.dtype) -> None:
    """W, flattened row by row, is U times v, flattened row by row. W has the weight's dtype."""
    symmetry, v, weight = _make(form, dtype)
    U = _definition(symmetry, weight)
    W = symmetry(v)
    assert W.dtype == dtype
    assert W.shape == weight.shape
    close = {"rtol": 0, "atol": 1e-13 if dtype == torch.float64 else 2e-5}
    torch.testing.assert_close(W.reshape(-1), U @ v.reshape(-1), **close)


@every_form
def test_the_gain_is_the_mean_squared_length_of_the_columns(form: str) -> None:
    """The columns are those of U's definition, also where a form never builds U."""
    symmetry, _, weight = _make(form)
    lengths = _definition(symmetry, weight).detach().square().sum(0)
    assert symmetry.gain() == pytest.approx(float(lengths.mean()), rel=1e-12)


@every_form
def test_gradients_of_factors_and_filters(form: str) -> None:
    """First and second derivatives by U's factors and by v are right for every form."""
    symmetry, v, _ = _make(form)
    names, factors = zip(*symmetry.named_parameters(), strict=True)

    def weight(v: Tensor, *factors: Tensor) -> Tensor:
        return functional_call(symmetry, dict(zip(names, factors, strict=True)), (v,))

    assert torch.autograd.gradcheck(weight, (v.requires_grad_(), *factors))
    assert torch.autograd.gradgradcheck(weight, (v, *factors))


@every_form
def test_tasks_have_filters_of_their_own(form: str) -> None:
    """`vmap` over v gives each task's weight and its gradient."""
    symmetry, v, _ = _make(form)
    tasks = torch.stack([v, -v, 2 * v + 1])
    with torch.no_grad():
        torch.testing.assert_close(vmap(symmetry)(tasks), torch.stack([symmetry(v) for v in tasks]))
    slopes = jacrev(lambda tasks: vmap(lambda v: symmetry(v).sin().sum())(tasks).sum())(tasks)
    wanted = torch.stack([jacrev(lambda v: symmetry(v).sin().sum())(v) for v in tasks])
    torch.testing.assert_close(slopes, wanted)


@every_form
def test_the_start_keeps_the_norm_and_the_direction_of_the_weight(form: str) -> None:
    """The layer keeps its scale with any number of filter parameters. A zero weight stays zero."""
    shape, make = FORMS[form]
    weight = _random(*shape)
    symmetry = make(weight)
    start = symmetry.right_inverse(weight)
    assert not start.requires_grad
    W = symmetry(start)
    assert W.norm().item() == pytest.approx(weight.norm().item(), rel=1e-12)
    assert (W * weight).sum() > 0
    assert not symmetry(symmetry.right_inverse(torch.zeros_like(weight))).any()


def test_a_dense_u_begins_at_the_weight_that_it_replaces() -> None:
    """U's first column alone makes the replaced weight: all other entries of v start at zero."""
    for shape in (MATRIX, (4,), SIGNAL_BANK, IMAGE_BANK, (1,)):
        weight = _random(*shape)
        symmetry = FullSymmetry(weight, 5)
        v = symmetry.right_inverse(weight)
        torch.testing.assert_close(symmetry(v), weight, rtol=0, atol=1e-14)
        assert v[1:].abs().max() < 1e-14 if len(v) > 1 else v.all()


@every_form
def test_columns_start_orthogonal_and_of_one_length(form: str) -> None:
    """Every form but a Kronecker sum starts so; the random terms of a sum only come near it."""
    shape, make = FORMS[form]
    weight = _random(*shape)
    symmetry = make(weight)
    if "sum" not in form:
        U = _definition(symmetry, weight).detach()
        torch.testing.assert_close(U.mT @ U, symmetry.gain() * torch.eye(U.shape[1], dtype=torch.float64))


@pytest.mark.parametrize("terms", [2, 8])
@pytest.mark.parametrize("shape", [(40, 30), (20, 6, 3, 3)], ids=["matrix", "bank"])
def test_a_kronecker_sum_starts_with_columns_of_about_length_one(shape: tuple[int, ...], terms: int) -> None:
    """For any number of terms and factors."""
    torch.manual_seed(0)
    assert KroneckerSymmetry(_random(*shape), terms).gain() == pytest.approx(1, abs=0.15)


def test_one_kronecker_term_keeps_the_weight() -> None:
    """A single term starts as the identity: the weight is kept to the last bit."""
    for shape in (MATRIX, SIGNAL_BANK, IMAGE_BANK):
        weight = _random(*shape)
        symmetry = KroneckerSymmetry(weight, 1)
        assert torch.equal(symmetry(symmetry.right_inverse(weight)), weight)


def _ring(reflect: bool) -> Tensor:
    """C8, or D8, on 3 x 3 taps `(order, 9, 9)`: the eight outer taps rotate as a ring, the middle tap stays."""
    ring = [0, 1, 2, 5, 8, 7, 6, 3]
    matrices = []
    for flip, turn in product((1, -1) if reflect else (1,), range(8)):
        matrix = torch.zeros(9, 9, dtype=torch.float64)
        matrix[4, 4] = 1
        for i, tap in enumerate(ring):
            matrix[ring[(flip * i + turn) % 8], tap] = 1
        matrices.append(matrix)
    return torch.stack(matrices)


def _lifted(filters: Tensor, group: Tensor) -> Tensor:
    """Filters `(fields, in, 3, 3)` transformed by every element: the bank `(fields * order, in, 3, 3)`."""
    turned = torch.einsum("gst,fit->fgis", group, filters.flatten(2))
    return turned.flatten(0, 1).unflatten(2, (3, 3))


@pytest.mark.parametrize("reflect", [False, True], ids=["C8", "D8"])
@pytest.mark.parametrize("per_input", [False, True], ids=["full", "per input"])
def test_a_tall_u_holds_a_group_of_turns(reflect: bool, per_input: bool) -> None:
    """With U built from the group, some v gives every bank of rotated filters and no v gives another bank."""
    fields, channels, group = 2, 3, _ring(reflect)
    used = 1 if per_input else channels
    units = torch.eye(fields * used * 9, dtype=torch.float64).unflatten(1, (fields, used, 3, 3))
    U = torch.stack([_lifted(unit, group).reshape(-1) for unit in units], dim=1)
    bank = _lifted(_random(fields, channels, 3, 3), group)
    symmetry = (PerInputSymmetry if per_input else FullSymmetry)(bank, U.shape[1])
    with torch.no_grad():
        symmetry.U.copy_(U)
        for weight, fits in ((bank, True), (_random(*bank.shape), False)):
            columns = weight.transpose(0, 1).flatten(1).T if per_input else weight.reshape(-1, 1)
            v = torch.linalg.lstsq(symmetry.U, columns).solution.reshape(symmetry.filter_shape)
            error = (symmetry(v) - weight).norm() / weight.norm()
            assert error < 1e-14 if fits else error > 0.5


@pytest.mark.parametrize("reflect", [False, True], ids=["C8", "D8"])
def test_a_sum_of_kronecker_terms_holds_a_group_of_turns(reflect: bool) -> None:
    """One term per element: A puts a field's filter on the element's channel, and C rotates it."""
    fields, channels, group = 2, 3, _ring(reflect)
    order = len(group)
    filters = _random(fields, channels, 3, 3)
    bank = _lifted(filters, group)
    symmetry = KroneckerSymmetry(bank, order)
    with torch.no_grad():
        symmetry.B.copy_(torch.eye(channels).expand_as(symmetry.B))
        symmetry.C.copy_(group)
        for element, A in enumerate(symmetry.A):
            pick = torch.zeros(order, order)
            pick[element, 0] = 1
            A.copy_(torch.kron(torch.eye(fields), pick))
        V = torch.zeros_like(bank)
        V[::order] = filters
        torch.testing.assert_close(symmetry(V), bank, rtol=0, atol=1e-15)


def test_a_turned_image_moves_the_channels_of_a_bank_that_holds_quarter_turns() -> None:
    """Translation comes from the convolution, rotation and reflection (D4) from U: exact for every v."""
    identity = torch.eye(9, dtype=torch.float64).unflatten(0, (3, 3))

    def act(image: Tensor, flip: int, turn: int) -> Tensor:
        return torch.rot90(image.flip(-1) if flip else image, turn, (-2, -1))

    elements = list(product((0, 1), range(4)))
    group = torch.stack([act(identity.movedim(2, 0), *g).flatten(1).T for g in elements])
    symmetry = PerInputSymmetry(_random(8, 2, 3, 3), 9)
    with torch.no_grad():
        symmetry.U.copy_(group.reshape(-1, 9))
        x, weight = _random(1, 2, 7, 7, seed=2), symmetry(_random(9, 2))
        y = torch.nn.functional.conv2d(x, weight)
        for element, (flip, turn) in enumerate(elements):
            moved = torch.cdist((group[element] @ group).flatten(1), group.flatten(1)).argmin(1)
            turned = torch.nn.functional.conv2d(act(x, flip, turn), weight)
            torch.testing.assert_close(turned[:, moved], act(y, flip, turn))
