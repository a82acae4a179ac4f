"""The cheapest forms of all U with which a learner stays within a tolerance.

First, all layers lose columns together: of each, those by which its weight moves least. This search may spend half of
the tolerance. Then one layer after the other, the largest first, takes the cheapest form that passes. Small ones, as
those of biases, stay as they are then: they save next to nothing.

No weight may lose more than a quarter of its moves, whatever the errors say: tasks that were recorded on a robot may be
too few to show what another place will ask for.
"""

import copy
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msr_export.cost import JudgedTasks
from msr_export.truncation import directions, lost, truncate
from msr_export.tying import TiedSymmetry, tie, tied
from msr_runtime.bundle.structure import LEAST_SAVED
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.meta.symmetry.forms import EquivariantSymmetry, FullSymmetry, Symmetry

Forms = dict[str, TiedSymmetry | Tensor]
"""Name of v to what its U becomes: tied rows, or the basis `(r, k)` along which v is kept."""
_DISTANCES = (0.2, 0.1, 0.05, 0.02)
"""Distances of rows that count as equal, as shares of the longest. The largest leaves the fewest rows."""
_COLUMNS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
"""Numbers of columns that a layer tries."""
_MOST_LOST = 0.25
"""The share of its moves that a weight may lose."""
_LOSSES = tuple(_MOST_LOST * 10 ** (-step / 4) for step in range(24))
"""Shares that all weights may lose, the largest first, down to rounding."""
_TOGETHER = 0.5
"""The share of the tolerance that all layers together may spend first."""
_SMALL = 0.01
"""The share of the numbers of every U below which a layer is small."""
_WORST = 10
"""One task in so many may rule the mean of all errors."""
_CERTAIN = 2.0
"""Standard errors by which the difference of errors has to lie below the tolerance."""


def cheapest(
    learner: Learner,
    judges: Sequence[JudgedTasks],
    moves: Tensors,
    most: float,
    *,
    ties: bool = True,
    columns: bool = True,
) -> Forms:
    """Find the cheapest forms with which no judge sees the error grow by more than a share.

    Args:
        learner: The learner as it was trained.
        judges: The tasks to choose on.
        moves: How tasks move each v, by name: `(tasks, k)`. A v that no task moves stays as it is.
        most: The share.
        ties: Try tied rows.
        columns: Try fewer columns.

    Returns:
        What is to change. Empty if too little can be left out.

    """
    before = [each.by_set(learner)[0] for each in judges]

    def holds(forms: Forms, share: float = 1.0) -> bool:
        changed = applied(learner, forms)
        return all(
            within(errors, each.by_set(changed)[0], share * most, tasks=each.tasks, sure=_CERTAIN)
            for errors, each in zip(before, judges, strict=True)
        )

    parts, start = symmetries(learner), learner.start()
    full = sum(symmetry.U.numel() for symmetry in parts.values())
    bases = {
        name: directions(symmetry, start[name], moves[name])
        for name, symmetry in parts.items()
        if columns and name in moves and moves[name].any()
    }
    losses = {name: lost(parts[name], moves[name], basis) for name, basis in bases.items()}
    together = [_cut(parts, bases, losses, most_lost) for most_lost in _LOSSES]
    passes = bisect_left(together, True, key=lambda forms: holds(forms, _TOGETHER))
    forms = together[passes] if passes < len(together) else {}
    large = [name for name in parts if parts[name].U.numel() > _SMALL * full]
    for name in sorted(large, key=lambda name: -parts[name].U.numel()):
        symmetry = parts[name]
        now = numbers(forms[name], symmetry) if name in forms else symmetry.U.numel()
        tries: list[TiedSymmetry | Tensor] = []
        if ties and not isinstance(symmetry, EquivariantSymmetry):
            rows = min(len(symmetry.U) // 2, (now - 1) // symmetry.U.shape[1])
            patterns = [tied(symmetry, near, rows) for near in _DISTANCES]
            tries += [form for form in patterns if form and _keeps_moves(form, symmetry, moves[name])]
        if name in bases:
            fewest = 1 + int((losses[name] > _MOST_LOST).sum())
            tries += [bases[name][:count] for count in _COLUMNS if fewest <= count <= len(bases[name])]
        tries = [form for form in tries if numbers(form, symmetry) < now]
        tries.sort(key=lambda form: numbers(form, symmetry))
        passes = bisect_left(tries, True, key=lambda form: holds(forms | {name: form}))
        if passes < len(tries):
            forms[name] = tries[passes]
    left = full - sum(parts[name].U.numel() - numbers(form, parts[name]) for name, form in forms.items())
    return forms if left <= (1 - LEAST_SAVED) * full else {}


def applied(learner: Learner, forms: Forms) -> Learner:
    """Return a copy of a learner whose U have other forms."""
    changed = copy.deepcopy(learner)
    for name, form in forms.items():
        if isinstance(form, TiedSymmetry):
            tie(changed, name, form)
        else:
            truncate(changed, name, form)
    return changed


def numbers(form: TiedSymmetry | Tensor, symmetry: FullSymmetry) -> int:
    """The numbers that a form stores of a U, each of which costs a multiplication."""
    return form.R.numel() if isinstance(form, TiedSymmetry) else len(form) * len(symmetry.U)


def symmetries(learner: Learner) -> dict[str, FullSymmetry]:
    """The U whose columns or rows can be left out, by the names of their v.

    There is none if only biases have such a U, as with Kronecker products: it would save nothing that takes time.
    """
    found = {name: _symmetry(learner, name) for name in learner.adapted_names if name.endswith(".original")}
    kinds = (FullSymmetry, EquivariantSymmetry)
    full = {name: part for name, part in found.items() if isinstance(part, FullSymmetry) and type(part) in kinds}
    start = learner.start()
    return full if any(part(start[name]).ndim > 1 for name, part in full.items()) else {}


def _symmetry(learner: Learner, name: str) -> Symmetry:
    symmetry = learner.network.get_submodule(name.removesuffix("original") + "0")
    assert isinstance(symmetry, Symmetry)
    return symmetry


def _keeps_moves(form: TiedSymmetry, symmetry: FullSymmetry, moves: Tensor) -> bool:
    """Whether tied rows lose no more of a weight's moves than columns may: many short rows may have become zero."""
    wanted, left = (torch.vmap(each)(moves).flatten(1) for each in (symmetry, form))
    return bool(torch.linalg.norm(left - wanted) <= _MOST_LOST * torch.linalg.norm(wanted))


def _cut(
    parts: Mapping[str, FullSymmetry],
    bases: Mapping[str, Tensor],
    losses: Mapping[str, NDArray[np.float64]],
    most_lost: float,
) -> Forms:
    """Keep the fewest columns of each U that lose no more than a share."""
    kept = {name: basis[: 1 + int((losses[name] > most_lost).sum())] for name, basis in bases.items()}
    return {name: basis for name, basis in kept.items() if len(basis) < parts[name].U.shape[1]}


def within(
    before: NDArray[np.float64], after: NDArray[np.float64], most: float, *, tasks: int, sure: float = 0.0
) -> bool:
    """Whether errors grow by no more than a share: in each query set all, and all but the largest tenth before.

    One robot on which adapting goes wrong may rule the mean: unseen, the errors of all others could get much larger.

    Args:
        before: The errors, `(sets, draws)`.
        after: The errors of the same draws, with less of U.
        most: The share.
        tasks: How many different tasks the draws are of.
        sure: Standard errors by which the difference has to lie below the share: other tasks may be harder.

    """
    order = np.argsort(before, axis=1, kind="stable")
    before, more = (np.take_along_axis(each, order, 1) for each in (before, after - before))
    draws = order.shape[1]
    for count in (draws, draws - draws // _WORST):
        spread = sure * more[:, :count].std(1) / np.sqrt(min(tasks, count))
        if not (more[:, :count].mean(1) + spread <= most * before[:, :count].mean(1)).all():
            return False
    return True
