"""Ridge regression as one small linear system: by torch's own solver, or by matrix products alone, as ONNX needs it.

ONNX has no linear solve. The Chebyshev iteration finds x by products with A; as Chebyshev polynomials of doubled degree
come from squaring, t squarings of one matrix do the work of 2ᵗ iterations. The damping bounds the eigenvalues from
below, so that a fixed number of squarings will do, whatever the system's size.

Source: Golub, Varga, "Chebyshev Semi-Iterative Methods", 1961.
"""

import torch
from torch import Tensor, nn

_SQUARINGS = 20
"""Enough for eigenvalues up to 1e9 times the bound; one more, and they may be four times as far apart."""


def solve(A: Tensor, b: Tensor, least: Tensor) -> Tensor:  # noqa: ARG001
    """Solve `A x = b` by factorising A, arguments as below; a singular A gives numbers not to be used, and no error."""
    return torch.linalg.solve_ex(A, b)[0]


def solve_by_products(A: Tensor, b: Tensor, least: Tensor) -> Tensor:
    """Solve `A x = b` by matrix products, whose number depends on nothing; the size of A may be symbolic.

    Args:
        A: `(m, m)`, symmetric.
        b: `(m,)`.
        least: What no eigenvalue of A is below, a scalar above zero.

    Returns:
        x `(m,)`, in float64 to 1e-9 where `|A| / least`, in the Frobenius norm, is at most 1e7, and to 1e-8 at 1e8.

    """
    most = A.square().sum().sqrt()
    # P = I - step A has its eigenvalues within ±1 / edge, and T of degree 2ᵗ is cosh(2ᵗ growth) at edge.
    step, edge = 2 / (most + least), (most + least) / (most - least).clamp(min=0)
    degrees = 2 ** torch.arange(1, _SQUARINGS + 1, dtype=A.dtype, device=A.device)
    growth = (edge + (edge.square() - 1).sqrt()).log() * degrees
    # x holds whatever these are, once P is nearly zero: nothing of the gradient goes through them.
    factors = (1 + 2 / (growth.exp() + (-growth).exp())).detach().reshape(-1, 1, 1)
    # Beside P stands the x found so far: squared, [[P, x], [0, 1]] is [[P², x + P x], [0, 1]]. The 1 stays one exactly.
    unit = torch.eye(A.shape[0] + 1, dtype=A.dtype, device=A.device)
    both = (unit - step * nn.functional.pad(torch.cat([A, -b.unsqueeze(1)], dim=1), (0, 0, 0, 1))).unsqueeze(0)
    for factor, less in zip(factors.split(1), ((factors - 1) * unit).split(1), strict=True):
        both = factor * both.bmm(both) - less
    return both[0, :-1, -1]


def ridge(rows: Tensor, targets: Tensor, damping: Tensor, *, by_products: bool = False) -> Tensor:
    """The z `(k,)` that minimises `|rows z - targets|² + damping |z|²`, rows `(n, k)`, targets `(n,)`.

    It is found from a system of the smaller of k and n, primal or dual. When n is symbolic its example decides which,
    and either holds for any n. The system is made and solved in double precision, because its condition number is the
    square of that of the rows.

    Args:
        rows: `(n, k)`, float32 or float64, the dtype of the result.
        targets: `(n,)`.
        damping: A scalar above zero: with it there is one solution, whatever the rows.
        by_products: Use only operators that ONNX has, see `solve_by_products`.

    """
    a, b, least = rows.double(), targets.double().unsqueeze(0), damping.double()
    solver = solve_by_products if by_products else solve
    if rows.shape[1] <= rows.shape[0]:
        z = solver(_damped(a.mT @ a, least), (b @ a).squeeze(0), least)
    else:
        z = (solver(_damped(a @ a.mT, least), b.squeeze(0), least).unsqueeze(0) @ a).squeeze(0)
    return z.to(rows.dtype)


def _damped(gram: Tensor, damping: Tensor) -> Tensor:
    return gram + damping * torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
