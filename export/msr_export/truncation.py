"""Leave out the directions of v in which no task moves it.

An inner loop starts at v0 and moves v by little, and in few directions. With B `(r, k)`, orthonormal rows that span v0
and these directions, the learner computes with B v in place of v and with `U Bᵀ` in place of U: r columns, not k.

A rotation of v changes no inner loop that measures v by its plain length: gradient steps with one rate a tensor,
damped Gauss-Newton steps, ridge regression and the filter, whose damping or variance is one number a tensor. Rates for
single numbers of v measure it in another way, and rules of one's own may: their v stays as it is.

The v of the filter stays too. With fewer directions its errors would stay the same, but it would be too sure of itself:
it would no longer doubt the directions that it has lost. Measured on ring-nav, after 40 samples: a mean normalized
innovation squared of 1.7, not 1.0.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap

from msr_runtime.families import rows_per_sample
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.gauss_newton import GaussNewton, Ridge
from msr_runtime.meta.rules.gradient import GradientSteps
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.meta.symmetry.forms import FullSymmetry
from msr_runtime.normalization import Normalization
from msr_runtime.task import TaskFamily

_TASKS = 256
"""Training tasks whose updates are looked at."""
_AT_ONCE = 32
"""Tasks that adapt at once."""
_NUMBERS = 2**21
"""Most numbers of x of the tasks that are drawn at once, unless one task has more: images would fill the memory."""


def can_truncate(learner: Learner) -> bool:
    """Whether the learner's rule takes the same steps after a rotation of v, and does not say how sure it is."""
    return type(learner.rule) in (GradientSteps, GaussNewton, Ridge)


def updates(learner: Learner, normalization: Normalization, family: TaskFamily, *, shots: int, seed: int) -> Tensors:
    """How training tasks move each adapted tensor from its start: name to `(tasks, *tensor)`, finite ones alone."""
    rng, parts, drawn = np.random.default_rng(seed), [], 0
    at_once = max(1, min(_TASKS, _NUMBERS // (shots * rows_per_sample(family) * math.prod(learner.inputs))))
    while drawn < _TASKS:
        batch = family.sample(rng, min(at_once, _TASKS - drawn), shots, len(family.query_sets), "train")
        drawn += len(batch.support_x)
        x, y = (torch.from_numpy(each) for each in normalization.normalize(batch.support_x, batch.support_y))
        with torch.no_grad():
            parts += [vmap(learner.adapt)(*each) for each in zip(x.split(_AT_ONCE), y.split(_AT_ONCE), strict=True)]
    start = learner.start()
    moves = {name: torch.cat([part[name] for part in parts]) - start[name].detach() for name in start}
    finite = torch.stack([move.flatten(1).isfinite().all(1) for move in moves.values()]).all(0)
    return {name: move[finite] for name, move in moves.items()}


def directions(symmetry: FullSymmetry, v0: Tensor, moves: Tensor) -> Tensor:
    """Orthonormal directions of v `(r, k)`: first that of v0, then those that move W most.

    Args:
        symmetry: U.
        v0: Where v starts, `(k,)`.
        moves: How tasks move it, `(tasks, k)`.

    """
    U, v0, moves = (each.detach().double() for each in (symmetry.U, v0, moves))
    first = torch.nn.functional.normalize(v0, dim=0)
    others = moves - torch.outer(moves @ first, first)
    # How far W moves is measured by |U d|, and R of U = Q R has the same lengths.
    tasks = torch.linalg.svd(others @ torch.linalg.qr(U).R.mT, full_matrices=False)[0]
    lines = torch.cat([first[None], tasks.mT @ others])
    kept = lines[torch.linalg.vector_norm(lines, dim=1) > 0][: U.shape[1]]
    return torch.linalg.qr(kept.mT)[0].mT


def lost(symmetry: FullSymmetry, moves: Tensor, basis: Tensor) -> NDArray[np.float64]:
    """By how much the moves of W are wrong with the first 1, 2, ... directions of a basis alone: `(r,)`.

    The root mean square over tasks, as a share of that of the moves.

    Args:
        symmetry: U.
        moves: How tasks move v, `(tasks, k)`; not all of them are zero.
        basis: Orthonormal directions `(r, k)`.

    """
    U, moves = symmetry.U.detach().double(), moves.double()
    R = torch.linalg.qr(U).R  # as long as U

    def length(moved: Tensor) -> Tensor:
        return (moved @ R.mT).square().sum(-1).mean().sqrt()

    along = moves @ basis.mT
    wrong = [length(moves - along[:, :count] @ basis[:count]) for count in range(1, len(basis) + 1)]
    return (torch.stack(wrong) / length(moves)).numpy()


def truncate(learner: Learner, name: str, basis: Tensor) -> None:
    """Replace v by its part along an orthonormal basis `(r, k)`, and U by the columns that belong to it, in place.

    Args:
        learner: The learner to change.
        name: The name of v among the adapted tensors.
        basis: The basis; it spans v0.

    """
    parts = learner.network.get_submodule(name.removesuffix(".original"))
    symmetry = parts.get_submodule("0")
    assert isinstance(symmetry, FullSymmetry)
    with torch.no_grad():
        v0 = parts.get_parameter("original").double()
        parts.register_parameter("original", torch.nn.Parameter((basis @ v0).float()))
        symmetry.U = torch.nn.Parameter((symmetry.U.double() @ basis.mT).float())
    symmetry.filter_shape = (len(basis),)
