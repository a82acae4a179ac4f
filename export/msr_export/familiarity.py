"""How much clean tasks surprise a learner with the rule `recursive`: what the robot compares its own task with."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap

from msr_runtime.bundle.familiarity import Familiarity, FaultTail, ShotTail, Tail, UsualInnovation, usual_nis
from msr_runtime.bundle.input_faults import MOST_INPUTS, Fit, by_count, slopes, steps_of
from msr_runtime.bundle.surprise import SURPRISE, surprise_parts
from msr_runtime.errors import FamilyError
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.recursive import Observation, Recursive, Sample
from msr_runtime.normalization import Normalization
from msr_runtime.task import TaskBatch, TaskFamily

SAMPLES = 128
"""Samples of a stream."""
WINDOW = 16
"""Samples of a window: the robot is told after so many, at the earliest."""
SHOTS = (1, 2, 5, 10, 20, 64)
"""Sizes of support sets."""
ENDS = (1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90)
"""Up to these samples of a task, and up to the last one, it is told how large an innovation usually is."""
FAULT_SAMPLES = (10, 20, 40, 64, 128)
"""Samples after which the evidence for faults is measured."""
_KINDS = ("gain", "offset")
"""The kinds of faults, as `FaultTail` names them."""
_AT_ONCE = 50
"""Streams that are filtered at once. More would need more memory, and hardly less time."""


def measure_familiarity(
    learner: Learner, normalization: Normalization, family: TaskFamily, *, noise: float, seed: int, tasks: int
) -> Familiarity | None:
    """Learn from streams of clean validation tasks, and return how surprising they are.

    Each task gives two streams. One comes from the region of the support sets, as in meta-training. The other comes
    from the last query set, because a robot that learns while it acts comes everywhere.

    Args:
        learner: The learner, as in `export_bundle`.
        normalization: The normalization under which it was trained.
        family: The family of the tasks.
        noise: Standard deviation of the noise on y of the samples of meta-training, on normalized outputs. The robot's
            sensors are assumed to have it too.
        seed: The seed of the draws.
        tasks: How many tasks.

    Returns:
        The figures. None if the learner has another rule, or if its numbers are not finite.
    """
    if not isinstance(learner.rule, Recursive):
        return None
    rng = np.random.default_rng(seed)
    batch = _draw(family, rng, tasks)
    x, y = (np.concatenate(each) for each in zip(*_streams(batch, len(family.query_sets)), strict=True))
    scale = np.asarray(normalization.output_scale)
    y = (y + noise * scale * rng.standard_normal(y.shape)).astype(np.float32)
    nis, fit = surprises(learner, normalization, x, y)
    finite = np.isfinite(nis).all(1)
    if fit is not None:
        fit = fit.both(x / np.asarray(normalization.input_scale))
        finite &= np.isfinite(fit.pull).all((1, 2, 3)) & np.isfinite(fit.weight).all((1, 2, 3))
        fit = Fit(fit.pull[finite], fit.weight[finite], fit.squares[finite])
    if finite.sum() < 2:
        return None
    nis = nis[finite]
    return familiarity_of(nis, normalization.normalize_y(y[finite]).reshape(*nis.shape, -1), fit)


def familiarity_of(nis: NDArray, y: NDArray, fit: Fit | None) -> Familiarity:
    """Describe how surprising clean tasks are.

    Args:
        nis: The normalized innovations squared, over all numbers of y, `(streams, samples)`.
        y: Normalized, `(streams, samples, out)`.
        fit: What each sample says of gains and offsets of x, `(streams, samples, 2, inputs)`; None if nothing.

    """
    streams, samples = nis.shape
    usual = usual_innovations(nis / y.shape[-1])
    expected = np.array([usual_nis(usual, count) for count in range(1, samples + 1)])
    parts = surprise_parts(nis, y, expected)
    errors, sizes = (np.pad(part.astype(np.float64), ((0, 0), (1, 0))).cumsum(1) for part in parts)
    window = min(WINDOW, samples)
    largest = (errors[:, window:] - errors[:, :-window]) / (sizes[:, window:] - sizes[:, :-window])
    return Familiarity(
        tasks=streams,
        samples=samples,
        window=window,
        usual=usual,
        largest=tail(largest.max(1)),
        by_shots=tuple(
            ShotTail(shots=count, surprise=tail(errors[:, count] / sizes[:, count]))
            for count in SHOTS
            if count <= samples
        ),
        faults=() if fit is None else fault_tails(fit.over(expected[:, None, None]), y.shape[-1]),
    )


def fault_tails(fit: Fit, outputs: int) -> tuple[FaultTail, ...]:
    """Describe how strong the evidence for faults is on clean tasks.

    The robot looks after every sample, at gains and at offsets. Each look has its own usual figure, and it is measured
    how much a whole stream exceeds these at most: so all looks together raise as few false alarms as one may.

    Args:
        fit: What each sample says of gains and offsets, `(streams, samples, 2, inputs)`, over what is usual.
        outputs: The numbers of y.

    """
    streams, samples, *_ = fit.pull.shape
    counts = [count for count in FAULT_SAMPLES if count <= samples]
    if not counts:
        return ()
    evidence = np.empty((streams, samples, 2))
    for stream, parts in enumerate(zip(fit.pull, fit.weight, fit.squares, strict=True)):  # one by one saves memory
        numbers = outputs * np.arange(1, samples + 1)[:, None, None]
        evidence[stream] = Fit(*(part.cumsum(0) for part in parts)).evidence(numbers).max(-1)
    usual = np.array([[tail(evidence[:, count - 1, kind]).usual for kind in range(2)] for count in counts])
    watched = slice(counts[0] - 1, counts[-1])
    exceeds = tail((evidence[:, watched] / by_count(counts, usual)[counts[0] - 1 :]).max((1, 2)))
    return tuple(
        FaultTail(samples=count, **{kind: exceeds.times(figure) for kind, figure in zip(_KINDS, each, strict=True)})
        for count, each in zip(counts, usual.tolist(), strict=True)
    )


def usual_innovations(nis: NDArray) -> tuple[UsualInnovation, ...]:
    """Return the usual innovations, by the number of the sample. A single stream that goes astray counts little.

    Args:
        nis: The normalized innovations squared per number of y, `(streams, samples)`.

    """
    samples = nis.shape[1]
    ends = [*(end for end in ENDS if end < samples), samples]
    parts = [np.minimum(nis[:, first:end], SURPRISE) for first, end in pairwise([0, *ends])]
    return tuple(
        UsualInnovation(samples=end, nis=float(f"{max(part.mean(), _SMALLEST):.4g}"))
        for end, part in zip(ends, parts, strict=True)
    )


def tail(figures: NDArray) -> Tail:
    """Describe the largest of some figures, one per task, by a power law above their ninth tenth.

    Source: Hill, "A Simple General Approach to Inference About the Tail of a Distribution", 1975.
    """
    sized = np.sort(figures)[::-1]
    count = max(1, len(sized) // 10)
    usual = max(float(sized[count]), _SMALLEST)
    slope = float(np.log(np.maximum(sized[:count], usual) / usual).mean())
    return Tail(usual=float(f"{usual:.4g}"), slope=float(f"{slope:.4g}"))


_SMALLEST = 1e-6
"""The smallest figure: a network that fits without any error is surprised by nothing."""


def _draw(family: TaskFamily, rng: np.random.Generator, tasks: int) -> TaskBatch:
    """Draw the tasks, with as many samples as the family gives. One of recorded tasks has only so many per task."""
    samples, sets = SAMPLES, len(family.query_sets)
    while True:
        try:
            return family.sample(rng, tasks, samples, samples * sets, "validation")
        except FamilyError:
            if samples == 1:
                raise
            samples //= 2


def _streams(batch: TaskBatch, sets: int) -> Iterator[tuple[NDArray, NDArray]]:
    """The two kinds of streams, x and y of each."""
    yield batch.support_x, batch.support_y
    samples = batch.support_x.shape[1]
    last = batch.query_x.shape[1] // sets * (sets - 1)
    yield batch.query_x[:, last : last + samples], batch.query_y[:, last : last + samples]


def surprises(
    learner: Learner, normalization: Normalization, x: NDArray, y: NDArray
) -> tuple[NDArray[np.float32], Fit | None]:
    """Learn from streams sample by sample, and return how far off each was before it was learned from.

    Args:
        learner: A learner with the rule `recursive`.
        normalization: Its normalization.
        x: `(tasks, samples, *x)` in raw units.
        y: `(tasks, samples, *y)` in raw units.

    Returns:
        The normalized innovation squared, `(tasks, samples)`: the number of outputs on average, if the variances are
        right. What each sample says of an offset of each number of x, `(tasks, samples, inputs)`; None for images, and
        for more than `MOST_INPUTS` numbers.
    """
    rule = learner.rule
    assert isinstance(rule, Recursive)
    keep, watches = rule.keep(), x.ndim == 3 and x.shape[2] <= MOST_INPUTS
    start = {name: tensor.detach() for name, tensor in learner.start().items()}
    prior, forward = rule.prior(start), learner.inner_forward
    steps = torch.from_numpy(steps_of(np.ones(x.shape[2]))) if watches else None  # x is in scales already

    def stream(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        samples = [Sample(*sample, keep) for sample in zip(x.unbind(), y.unbind(), strict=True)]
        mean, found = prior.mean, []
        for sample, (belief, seen) in zip(samples, rule.follow(forward, start, samples), strict=True):
            found.append((seen.nis, *(fit(sample, seen, mean) if watches else ())))
            mean = belief.mean
        return tuple(map(torch.stack, zip(*found, strict=True)))

    def fit(sample: Sample, seen: Observation, mean: Tensor) -> tuple[Tensor, ...]:
        # Time has passed since the sample before, as in the rule.
        tensors = rule.tensors(start, mean if sample.keep is None else sample.keep * mean)
        found = slopes(lambda near: forward(tensors, near).flatten(1), sample.x, steps)
        one = Fit.of(seen.innovation, seen.variance, found)  # type: ignore[arg-type]  # tensors
        return one.pull, one.weight, one.squares  # type: ignore[return-value]

    parts = []
    with torch.no_grad():
        for first in range(0, len(x), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            inputs, targets = map(torch.from_numpy, normalization.normalize(x[part], y[part]))
            parts.append([each.numpy() for each in vmap(stream)(inputs, targets)])
    nis, *fits = (np.concatenate(each) for each in zip(*parts, strict=True))
    return nis, Fit(*(each.astype(np.float64) for each in fits)) if watches else None
