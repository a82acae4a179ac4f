"""Ridge regression as one small linear system, solved by torch's solver or, for ONNX, by matrix products alone.

ONNX has no operator that solves a linear system. The Chebyshev iteration finds x from products with A. Its polynomials
have a short cut, `T_2n = 2 T_n² - 1`: squaring the one of degree n gives the one of degree 2n. So t squarings of one
matrix do the work of 2ᵗ iterations. The damping bounds the eigenvalues of A from below. So a fixed number of squarings
is enough for a system of any size.

Source: Golub, Varga, "Chebyshev Semi-Iterative Methods", 1961.
"""

import torch
from torch import Tensor, nn

_SQUARINGS = 20
"""Enough if the largest eigenvalue is at most 1e9 times the lower bound. One more squaring allows four times that
ratio.
"""

_BLOCK, _MOST_BLOCKS = 64, 8
"""Least height of a block of `gram`, and the most blocks: fewer save fewer products, more cost more copies."""


def solve(A: Tensor, b: Tensor, least: Tensor) -> Tensor:  # noqa: ARG001
    """Solve `A x = b` by factorizing A. Arguments are those of `solve_by_products`; `least` is not used.

    A singular A raises no error. It gives numbers that must not be used.
    """
    return torch.linalg.solve_ex(A, b)[0]


def solve_by_products(A: Tensor, b: Tensor, least: Tensor) -> Tensor:
    """Solve `A x = b` by a fixed number of matrix products. The size of A may be symbolic.

    Args:
        A: `(m, m)`, symmetric.
        b: `(m,)`.
        least: A lower bound of A's eigenvalues, a scalar above zero.

    Returns:
        x `(m,)`. In float64 it is exact to 1e-9 where `|A| / least`, in the Frobenius norm, is at most 1e7, and to 1e-8
        at 1e8.

    """
    # The Frobenius norm bounds the largest eigenvalue.
    most = A.square().sum().sqrt()
    # The error is multiplied by T(edge * P) / T(edge), with P = I - step A and T the Chebyshev polynomial of degree 2ᵗ.
    # The eigenvalues of edge * P lie within ±1, where T stays within ±1. T(edge) = cosh(2ᵗ growth) grows fast.
    step, edge = 2 / (most + least), (most + least) / (most - least).clamp(min=0)
    degrees = 2 ** torch.arange(1, _SQUARINGS + 1, dtype=A.dtype, device=A.device)
    growth = (edge + (edge.square() - 1).sqrt()).log() * degrees
    # Once P is nearly zero, x does not depend on these factors. So no gradient has to pass through them.
    factors = (1 + 2 / (growth.exp() + (-growth).exp())).detach().reshape(-1, 1, 1)
    # The x found so far stands beside P: the square of [[P, x], [0, 1]] is [[P², x + P x], [0, 1]]. One product updates
    # both. The 1 in the corner stays exactly 1.
    unit = torch.eye(A.shape[0] + 1, dtype=A.dtype, device=A.device)
    both = (unit - step * nn.functional.pad(torch.cat([A, -b.unsqueeze(1)], dim=1), (0, 0, 0, 1))).unsqueeze(0)
    for factor, less in zip(factors.split(1), ((factors - 1) * unit).split(1), strict=True):
        both = factor * both.bmm(both) - less
    return both[0, :-1, -1]


def ridge(rows: Tensor, targets: Tensor, damping: Tensor, *, by_products: bool = False) -> Tensor:
    """The z `(k,)` that minimizes `|rows z - targets|² + damping |z|²`.

    z comes from the smaller of two linear systems: one of size k (primal) or one of size n (dual). If n is symbolic, as
    in a trace for ONNX, the example's n decides. Either system is right for any n.

    The system is built and solved in float64, because its condition number is the square of that of `rows`.

    Args:
        rows: `(n, k)`, float32 or float64, which is also the dtype of the result.
        targets: `(n,)`.
        damping: A scalar above zero. With it there is exactly one solution, for any rows.
        by_products: Use only operators that ONNX has (see `solve_by_products`).

    """
    # With damping, no eigenvalue of the system is below it: it is also the lower bound that the solver needs.
    a, b, least = rows.double(), targets.double().unsqueeze(0), damping.double()
    solver = solve_by_products if by_products else solve
    if rows.shape[1] <= rows.shape[0]:
        z = solver(_damped(a.mT @ a, least), (b @ a).squeeze(0), least)
    else:
        z = (solver(_damped(a @ a.mT, least), b.squeeze(0), least).unsqueeze(0) @ a).squeeze(0)
    return z.to(rows.dtype)


def gram(rows: Tensor, targets: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """The upper triangle of `rowsᵀ rows` beside `rowsᵀ targets`, `(k, k + 1)`, float64: sums over the n rows.

    `ridge` minimizes with the same sums. They have the size of the system for any number of rows, so rows may be added
    in parts. What lies below the blocks of the diagonal is zero, to save products.

    Args:
        rows: `(n, k)`.
        targets: `(n,)`.
        dtype: In what the products are summed.

    """
    beside = torch.cat([rows, targets.unsqueeze(1)], dim=1).to(dtype)
    height = max(_BLOCK, -(-rows.shape[1] // _MOST_BLOCKS))
    blocks = [
        nn.functional.pad(block.mT @ beside[:, index * height :], (index * height, 0))
        for index, block in enumerate(beside[:, :-1].split(height, dim=1))
    ]
    return torch.cat(blocks).double()


def _damped(gram: Tensor, damping: Tensor) -> Tensor:
    """Add the damping to the diagonal."""
    return gram + damping * torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
