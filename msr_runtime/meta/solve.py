"""Ridge regression as one small linear system: by torch's own solver, or by matrix products alone, as ONNX needs it.

ONNX has no linear solve. Newton's iteration for the inverse, `X (2 I - A X)`, is two matrix products a round, and as
the damping bounds the eigenvalues from below, a fixed number of rounds will do, whatever the system's size.

Source: Pan, Schreiber, "An Improved Newton Iteration for the Generalized Inverse of a Matrix", 1991 (the scaling).
"""

import torch
from torch import Tensor

_ROUNDS = 20
"""In each, the smallest eigenvalue of `A X` grows by 4 until it nears 1; then its distance from 1 is squared."""


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
        x `(m,)`, in float64 to 1e-9 where `|A| / least`, in the Frobenius norm, is at most 1e6.

    """
    most = A.square().sum().sqrt()
    unit = torch.eye(A.shape[0], dtype=A.dtype, device=A.device)
    # The eigenvalues of A X lie within 1 ± far: centred anew in each round, they close in twice as fast.
    inverse, far = unit * (2 / (most + least)), (most - least) / (most + least)
    for _ in range(_ROUNDS):
        past = 2 - far.square()
        inverse, far = inverse @ (2 * unit - A @ inverse) * (2 / past), far.square() / past
    x = inverse @ b.unsqueeze(1)
    return (x + inverse @ (b.unsqueeze(1) - A @ x)).squeeze(1)


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
