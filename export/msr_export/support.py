"""Support sets on which a comparison of ONNX with torch says something about the export."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msr_export.freeze import flatten
from msr_runtime.errors import ExportError
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.rule import Rule, Tensors
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array

_NOISE = 0.5
"""First distance of the support's targets from the network's own prediction, in output scales."""
_ATTEMPTS = 200
"""Support sets drawn before the check gives up."""
_GROWTH = 2.0
"""The inner loop counts as diverging if any step leaves a support loss above this multiple of the first."""
OWN_ERROR = 1e-6
"""How far torch's float32 may be from float64, relative to the largest number: a tenth of what an export may miss."""
_CANDIDATES = 20
"""Support sets of which the best is taken if none is as good as that."""


def draw_support(
    learner: Learner,
    normalization: Normalization,
    inputs: Array,
    rng: np.random.Generator,
    shots: int,
    steps: Sequence[int],
) -> tuple[Array, NDArray]:
    """Draw a support set on which the inner loop is stable in torch.

    On some support sets the inner loop diverges in torch itself, also for trained learners. On others it does not
    diverge yet, but makes each rounding error many times larger. There, any two orders of summation give different
    results, and a comparison would say nothing about the export. How well a support set can be computed at all is what
    torch's float32 misses of its own float64. Sets that fail are drawn again, with less noise.

    Args:
        learner: The learner, in float32.
        normalization: Its normalization.
        inputs: Samples of x in raw units, `(samples, ...)`, from which those of the set are drawn.
        rng: Source of the draws.
        shots: The number of samples.
        steps: The numbers of inner steps that will be compared.

    Returns:
        x and y in raw units. If no set can be computed well in float32, the best of several.

    Raises:
        ExportError: The inner loop diverges in torch on every support set that was drawn.

    """
    exact, kept = copy.deepcopy(learner).double(), []
    for attempt in range(_ATTEMPTS):
        support_x = rng.choice(inputs, shots)
        x = torch.from_numpy(normalization.normalize_x(support_x))
        if learner.classifies:
            support_y: NDArray = rng.integers(learner.outputs[0], size=shots)
        else:
            with torch.no_grad():
                clean = learner(learner.start(), x).numpy()
            noisy = clean + _NOISE * (1 - attempt / _ATTEMPTS) * rng.standard_normal(clean.shape)
            support_y = normalization.raw_y(noisy)
        y = torch.from_numpy(normalization.normalize_y(support_y))
        losses, moves = path_of(learner, x, y, steps)
        # class means take no steps, so they cannot diverge: labels that are drawn fit them as badly as any
        if learner.rule is not None and not (losses[1:] <= _GROWTH * losses[0]).all():
            continue
        error = _own_error(exact, x, y, steps, losses, moves)
        if error <= OWN_ERROR:
            return support_x, support_y
        kept.append((error, support_x, support_y))
        if len(kept) == _CANDIDATES:
            break
    if kept:
        _, support_x, support_y = min(kept, key=lambda candidate: candidate[0])
        return support_x, support_y
    raise ExportError(
        f"the inner loop diverges in torch within {max(steps)} steps on {_ATTEMPTS} support sets of {shots} shots: "
        f"the support loss grows to more than {_GROWTH:g} times its start, so no robot could adapt with it; "
        "most likely the learned rates are too high: train again, from a lower inner_rate"
    )


def path_of(learner: Learner, x: Tensor, y: Tensor, steps: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The support losses at the start and after each number of steps `(1 + steps,)`, and the v of each."""
    with torch.no_grad():
        path = adapted_after(learner, x, y, steps)
        losses = [learner.support_loss(adapted, x, y) for adapted in path]
    return torch.stack(losses), torch.cat([flatten(learner, adapted) for adapted in path])


def adapted_after(learner: Learner, x: Tensor, y: Tensor, steps: Sequence[int]) -> list[Tensors]:
    """The adapted tensors at the start and after each number of steps; steps that several have in common are taken
    once.
    """
    rule, own = learner.rule, type(learner).adapt is not Learner.adapt
    if rule is None or own or type(rule).forward is not Rule.forward:
        return [learner.adapt(x, y, step) for step in (0, *steps)]
    path = [learner.start()]
    for index in range(max(steps)):
        moved, _ = rule.take(index, learner.inner_forward, learner.loss, path[-1], x, y)
        path.append(moved)
    return [path[step] for step in (0, *steps)]


def _own_error(exact: Learner, x: Tensor, y: Tensor, steps: Sequence[int], losses: Tensor, moves: Tensor) -> float:
    """What float32 misses, in losses and v, relative to the largest. `exact` is the learner in float64."""
    try:
        wanted = path_of(exact, x.double(), y.double() if y.is_floating_point() else y, steps)
    except RuntimeError:  # a network of one's own may hold float32 numbers that do not mix with others: nobody knows
        return 0.0
    error = max(
        float((seen - true).abs().max() / true.abs().max()) for seen, true in zip((losses, moves), wanted, strict=True)
    )
    return math.inf if math.isnan(error) else error
