"""The structure of U that saves work: which of its rows are equal, and which of its columns are needed.

Layers are tried one after the other, the largest first. A layer takes the cheapest form with which the whole learner
stays within the tolerance. Kronecker factors are not tried: on ring-nav and hex-drive, 99 % of U needs factors as large
as the layer itself.
"""

import copy

import numpy as np
from numpy.typing import NDArray

from msr_export.cost import JudgedTasks, mean_error
from msr_export.folding import folded_name
from msr_export.truncation import directions, truncate, turns_freely, updates
from msr_export.tying import TiedSymmetry, can_tie, tied
from msr_runtime.bundle.structure import MOST_STRUCTURE_COST, LayerStructure, Structure
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.meta.symmetry.forms import EquivariantSymmetry, FullSymmetry, Symmetry
from msr_runtime.normalization import Normalization
from msr_runtime.task import TaskFamily

_DISTANCES = (0.2, 0.1, 0.05, 0.02)
"""Distances of rows that count as equal, as shares of the longest. The largest leaves the fewest rows."""
_COLUMNS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
"""Numbers of columns that are tried."""
_CERTAIN = 2.0
"""Standard errors by which the difference of errors has to lie below the tolerance."""
_TRIES = 3
"""Tries, each with half the tolerance of the one before, until other tasks agree."""


def choose_structure(
    learner: Learner,
    normalization: Normalization,
    family: TaskFamily,
    *,
    shots: int,
    seed: int,
    tasks: int,
    rows: bool = True,
    columns: bool = True,
) -> tuple[Learner, Structure | None]:
    """Make U smaller where the error after adapting stays within `MOST_STRUCTURE_COST`.

    What is kept is chosen on validation tasks and then measured on others. If it costs more on those, it is chosen
    again with half the tolerance.

    Args:
        learner: The learner, as in `export_bundle`.
        normalization: The normalization under which it was trained.
        family: The family of the tasks.
        shots: Support samples per task in meta-training, as the family counts them.
        seed: The seed of the draws.
        tasks: How many tasks, at most.
        rows: Tie equal rows of U.
        columns: Leave out columns of U.

    Returns:
        The smaller learner, or the learner as it was, and what was found. None for a learner without a U to look at.

    """
    symmetries = _symmetries(learner)
    if not symmetries:
        return learner, None
    known = {"shots": shots, "tasks": tasks}
    chosen_on, judged = (JudgedTasks(normalization, family, seed=seed + more, **known) for more in (0, 1))
    moves = updates(learner, normalization, family, shots=shots, seed=seed) if columns and turns_freely(learner) else {}
    before = judged.errors(learner)
    for tries in range(_TRIES):
        most = MOST_STRUCTURE_COST / 2**tries
        smaller = _smaller(learner, chosen_on, moves, most, ties=rows and can_tie(learner))
        found = _describe(learner, smaller)
        after = judged.errors(smaller) if found else before
        if after.mean() <= (1 + MOST_STRUCTURE_COST) * before.mean():
            break
    else:
        smaller, found, after = learner, (), before
    full = sum(symmetry.U.numel() for symmetry in symmetries.values())
    saved = sum(layer.multiply_adds_before - layer.multiply_adds for layer in found)
    return smaller, Structure(
        layers=found,
        tasks=judged.tasks,
        error=mean_error(after),
        full_error=mean_error(before),
        multiply_adds=full - saved,
        full_multiply_adds=full,
    )


def _smaller(learner: Learner, chosen_on: JudgedTasks, moves: Tensors, most: float, *, ties: bool) -> Learner:
    """Take the cheapest form of each layer, the largest layer first, within a tolerance of all together."""
    before = chosen_on.errors(learner)
    symmetries, start = _symmetries(learner), learner.start()
    for name in sorted(symmetries, key=lambda name: -symmetries[name].U.numel()):
        symmetry = symmetries[name]
        can = ties and not isinstance(symmetry, EquivariantSymmetry)
        others = [tied(symmetry, near) for near in _DISTANCES] if can else []
        tries: list[tuple[int, Learner]] = []
        for other in others:
            if other is not None:
                changed = copy.deepcopy(learner)
                changed.network.get_submodule(name.removesuffix(".original"))[0] = other  # type: ignore[index]
                tries.append((other.R.numel(), changed))
        if name in moves and len(moves[name]):
            basis = directions(symmetry, start[name], moves[name])
            for columns in (each for each in _COLUMNS if each <= len(basis) and each < symmetry.U.shape[1]):
                changed = copy.deepcopy(learner)
                truncate(changed, name, basis[:columns])
                tries.append((columns * len(symmetry.U), changed))
        for numbers, changed in sorted(tries, key=lambda each: each[0]):
            if numbers < symmetry.U.numel() and _within(before, chosen_on.errors(changed), most):
                learner = changed
                break
    return learner


def _within(before: NDArray[np.float64], after: NDArray[np.float64], most: float) -> bool:
    """Whether the errors of tasks grow by no more than a share, also if these tasks were easier than others."""
    more = after - before
    return more.mean() + _CERTAIN * more.std() / np.sqrt(len(more)) <= most * before.mean()


def _symmetries(learner: Learner) -> dict[str, FullSymmetry]:
    """The U whose columns or rows can be left out, by the names of their v."""
    found = {name: _symmetry(learner, name) for name in learner.adapted_names if name.endswith(".original")}
    kinds = (FullSymmetry, EquivariantSymmetry)
    return {name: part for name, part in found.items() if isinstance(part, FullSymmetry) and type(part) in kinds}


def _symmetry(learner: Learner, name: str) -> Symmetry:
    symmetry = learner.network.get_submodule(name.removesuffix("original") + "0")
    assert isinstance(symmetry, Symmetry)
    return symmetry


def _describe(learner: Learner, smaller: Learner) -> tuple[LayerStructure, ...]:
    """What became of each U that got smaller."""
    layers = []
    for name, symmetry in _symmetries(learner).items():
        now = _symmetry(smaller, name)
        columns = now.filter_shape[0]
        if isinstance(now, TiedSymmetry) or columns < symmetry.U.shape[1]:
            layers.append(
                LayerStructure(
                    weight=folded_name(name),
                    numbers=len(symmetry.U),
                    columns=columns,
                    columns_before=symmetry.U.shape[1],
                    rows=len(now.R) if isinstance(now, TiedSymmetry) else None,
                )
            )
    return tuple(layers)
