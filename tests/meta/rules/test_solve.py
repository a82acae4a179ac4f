"""Ridge regression solves its system, by factorization and by matrix products alone."""

import numpy as np
import pytest
import torch

from msr_runtime.meta.rules.solve import gram, ridge, solve, solve_by_products


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6, 1e8])
@pytest.mark.parametrize("size", [1, 5, 60])
def test_matrix_products_solve_as_a_factorization_does(toy, size: int, condition: float) -> None:
    """At any scale and condition: to 1e-9 in float64, and to 1e-8 at condition 1e8."""
    turn = torch.linalg.qr(toy.normal(size, size))[0]
    spread = torch.logspace(0, -np.log10(condition), size, dtype=torch.float64)
    for scale in (1e-6, 1.0, 1e6):
        A, b = scale * (turn * spread) @ turn.mT, toy.normal(size)
        wanted, seen = torch.linalg.solve(A, b), solve_by_products(A, b, scale * spread.min())
        assert (seen - wanted).norm() <= max(1e-9, 1e-16 * condition) * wanted.norm()
        assert (solve(A, b, spread.min()) - wanted).norm() <= max(1e-9, 1e-16 * condition) * wanted.norm()


@pytest.mark.parametrize("by_products", [False, True])
@pytest.mark.parametrize(("n", "k"), [(1, 7), (7, 1), (30, 12), (12, 30), (12, 12)])
def test_ridge_is_least_squares_with_damping_as_rows(toy, n: int, k: int, by_products: bool) -> None:
    """Primal and dual; in float32 to 1e-5 with a damping of a thousandth of the largest eigenvalue."""
    rows, targets = toy.normal(n, k), toy.normal(n, seed=1)
    damping = 1e-3 * torch.linalg.matrix_norm(rows, 2) ** 2
    stacked = np.vstack([rows, damping.sqrt() * toy.identity(k)]), np.concatenate([targets, np.zeros(k)])
    wanted = torch.from_numpy(np.linalg.lstsq(*stacked)[0])
    seen = ridge(rows, targets, damping, by_products=by_products)
    torch.testing.assert_close(seen, wanted, rtol=1e-9, atol=1e-9)
    single = ridge(rows.float(), targets.float(), damping.float(), by_products=by_products)
    assert single.dtype == torch.float32
    assert (single - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_products_let_gradients_through(toy) -> None:
    """Gradients by the rows, the targets and the damping are right."""
    parts = [
        toy.normal(4, 3).requires_grad_(),
        toy.normal(4).requires_grad_(),
        torch.tensor(0.3).double().requires_grad_(),
    ]
    assert torch.autograd.gradcheck(lambda *parts: ridge(*parts, by_products=True), parts)


@pytest.mark.parametrize(("n", "k"), [(9, 1), (40, 64), (300, 150)])
def test_the_sums_of_parts_are_the_sums_of_all_rows(toy, n: int, k: int) -> None:
    """The upper triangle of JᵀJ beside Jᵀr, in one block and in several; parts of the rows add up to it."""
    rows, targets = toy.normal(n, k), toy.normal(n, seed=1)
    wanted = torch.cat([(rows.mT @ rows).triu(), (rows.mT @ targets)[:, None]], dim=1)
    seen = gram(rows, targets)
    torch.testing.assert_close(torch.cat([seen[:, :-1].triu(), seen[:, -1:]], dim=1), wanted)
    parts = [gram(*part) for part in zip(rows.split(7), targets.split(7), strict=True)]
    torch.testing.assert_close(sum(parts), seen)
    assert gram(rows.float(), targets.float()).dtype == torch.float64
    coarse = gram(rows, targets, torch.float32)
    assert coarse.dtype == torch.float64
    torch.testing.assert_close(coarse, seen, rtol=1e-5, atol=1e-5 * n)
    assert not torch.equal(coarse, seen)
