"""The structure of U that saves work: which of its rows are equal, and which of its columns are needed.

What is kept is chosen on validation tasks, then measured on others, with as many samples as in meta-training and with
many: with few columns, few samples say more about v, and many samples less.

Tasks can say what adapting needs only if there are enough of them, and if adapting helps on them. On logs of a real
robot, adapting may hardly help: then the errors would stay the same with no columns at all.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from msr_export.cost import JudgedTasks, mean_error
from msr_export.folding import folded_name
from msr_export.shots import MANY_SHOTS, with_most_shots
from msr_export.structure_search import Forms, applied, cheapest, numbers, symmetries, within
from msr_export.truncation import can_truncate, updates
from msr_export.tying import TiedSymmetry, can_tie
from msr_runtime.bundle.structure import MOST_STRUCTURE_COST, LayerStructure, ManyShots, Structure
from msr_runtime.families import EpisodicFamily
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.normalization import Normalization
from msr_runtime.task import TaskFamily

_EPISODES = 20
"""Most tasks of images: each has many times the work of a robot's."""
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

    If what was chosen costs more on other validation tasks, it is chosen again with half the tolerance. Where adapting
    does not take away half of the error, or the tasks are too few, U stays as it is.

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
    ties, truncates = rows and can_tie(learner), columns and can_truncate(learner)
    if not symmetries(learner) or not (ties or truncates):
        return learner, None
    known = {"shots": shots, "tasks": tasks}
    # What rounding costs is measured on draws by the same seed, the export's: so the errors can be compared.
    judged = _judges(normalization, family, seed=seed, **known)
    both = [each.by_set(learner) for each in judged]
    before, at_v0 = [adapted for adapted, _ in both], [without for _, without in both]
    kept = _found(learner, {}, judged, before, before, at_v0)
    if kept.unclear:
        return learner, kept
    chosen_on = _judges(normalization, family, seed=seed + 1, **known)

    def moves_by(count: int) -> Tensors:
        return updates(learner, normalization, family, shots=count, seed=seed)

    # Training tasks may have fewer samples than validation tasks.
    found = [with_most_shots(moves_by, shots, each.shots) for each in chosen_on]
    moves = {name: torch.cat([each[name] for each in found]) for name in learner.start()}
    for tries in range(_TRIES):
        most = MOST_STRUCTURE_COST / 2**tries
        forms = cheapest(learner, chosen_on, moves, most, ties=ties, columns=truncates)
        smaller = applied(learner, forms) if forms else learner
        after = [each.by_set(smaller)[0] for each in judged] if forms else before
        if all(
            within(then, now, MOST_STRUCTURE_COST, tasks=each.tasks)
            for each, now, then in zip(judged, after, before, strict=True)
        ):
            return smaller, _found(learner, forms, judged, after, before, at_v0)
    return learner, kept


def _judges(
    normalization: Normalization, family: TaskFamily, *, shots: int, seed: int, tasks: int
) -> tuple[JudgedTasks, ...]:
    """Tasks with the shots of meta-training, and with many. Of stored images, each class has only few."""
    of_images = isinstance(family, EpisodicFamily)
    tasks = min(tasks, _EPISODES) if of_images else tasks

    def draw(count: int) -> JudgedTasks:
        return JudgedTasks(normalization, family, shots=count, seed=seed, tasks=tasks)

    few = draw(shots)
    if of_images or shots >= MANY_SHOTS:
        return (few,)
    many = with_most_shots(draw, shots, MANY_SHOTS)
    return (few, many) if many.shots > shots else (few,)


def _found(
    learner: Learner,
    forms: Forms,
    judged: tuple[JudgedTasks, ...],
    after: list[NDArray[np.float64]],
    before: list[NDArray[np.float64]],
    at_v0: list[NDArray[np.float64]],
) -> Structure:
    """What became of each U that got smaller, and what it costs."""
    parts = symmetries(learner)
    full = sum(symmetry.U.numel() for symmetry in parts.values())
    saved = sum(parts[name].U.numel() - numbers(form, parts[name]) for name, form in forms.items())
    layers = []
    for name, symmetry in parts.items():
        if (form := forms.get(name)) is None:
            continue
        tied = isinstance(form, TiedSymmetry)
        layers.append(
            LayerStructure(
                weight=folded_name(name),
                numbers=len(symmetry.U),
                columns=symmetry.U.shape[1] if tied else len(form),
                columns_before=symmetry.U.shape[1],
                rows=len(form.R) if tied else None,
            )
        )
    few, *many = (
        {"error": mean_error(now[0]), "full_error": mean_error(then[0]), "unadapted_error": mean_error(without[0])}
        for now, then, without in zip(after, before, at_v0, strict=True)
    )
    return Structure(
        layers=tuple(layers),
        tasks=judged[0].tasks,
        **few,
        many=ManyShots(shots=judged[1].shots, **many[0]) if many else None,
        multiply_adds=full - saved,
        full_multiply_adds=full,
    )
