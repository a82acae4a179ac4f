"""Score a log prequentially: each sample is predicted before anything is learned from it, as on the robot."""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.comparison import METHODS, Answers
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.online import OnlineAdapter
from msr_runtime.adaptation.report import OnlineReport
from msr_runtime.errors import InputError

STRETCHES: tuple[tuple[int, int | None], ...] = ((0, 10), (10, 100), (100, None))
"""The stretches of a drive for which errors are given apart: the first sample, and the first one after it."""


class Drive(NamedTuple):
    """What one robot observed without a break, in the order of time. Nobody tells where its task changes."""

    name: str
    x: NDArray
    """`(samples, *x)` in raw units."""
    y: NDArray
    """`(samples, *y)` in raw units, or labels `(samples,)`."""
    seen: NDArray[np.float64]
    """When each x was observed, `(samples,)`, in s, growing."""
    known: NDArray[np.float64]
    """When its y was known, `(samples,)`, in s: as early as `seen`, or later."""


@dataclass(frozen=True)
class Score:
    """How well a bundle that adapts predicts a log, beside answers that need no adapting.

    An error is the mean squared error over the variance of y in the log: 1 is what its mean would have. Over several
    outputs, it is the mean of theirs. Of a classifier it is the share of wrong labels. NaN without samples.
    """

    drives: int
    samples: int
    """Samples that were predicted."""
    left_out: int
    """Samples that were not: a value is not finite, or further outside its bounds than the manifest's `input_limit`, as
    where a log writes 65535 for what a sensor did not see."""
    errors: dict[str, float]
    """By method: `adapted`, `v0` (no adaptation), `mean` (the running mean of the drive) and `last` (the y known last).
    Before the first y of a drive is known, the last two answer with the center of the training data."""
    by_output: dict[str, tuple[float, ...]]
    """The same for each number of y. Of a classifier there is one."""
    by_stretch: dict[str, tuple[float, ...]]
    """The same for the samples of each of the `STRETCHES` of a drive."""
    tried: int
    """Adaptations."""
    refused: dict[str, int]
    """Refused adaptations by reason."""
    restarts: int
    """Changes of the task that samples showed, see `OnlineReport.restarts`."""


def score(
    model: AdaptiveModel, drives: Iterable[Drive], make: Callable[[AdaptiveModel], OnlineAdapter] = OnlineAdapter
) -> Score:
    """Predict each sample of a log before anything is learned from it.

    At the start of each drive, `v0` acts. The same log always gives the same score.

    Args:
        model: The model. It is not changed.
        drives: The log.
        make: Makes the adapter of a drive from a fork of the model.

    Raises:
        InputError: If a sample does not fit the bundle, the times of a drive are not in order, or no sample can be
            predicted.

    Example:
        >>> import numpy as np
        >>> from msr_runtime import AdaptiveModel
        >>> from msr_runtime.adaptation import Drive, score
        >>> x, time = np.random.default_rng(0).uniform(0, 1, (50, 18)), np.arange(50) / 10
        >>> found = score(AdaptiveModel.load(bundle), [Drive("demo", x, 0.1 * x[:, :2], time, time)])
        >>> found.samples, found.errors["adapted"] < found.errors["v0"]
        (50, True)
    """
    parts = [_predict(model, _checked(model, drive), make(model.fork())) for drive in drives]
    if not sum(len(part.errors) for part in parts):
        raise InputError("the log has no sample that can be predicted; record more, or look at what was left out")
    errors, targets, numbers = (
        np.concatenate(each)
        for each in zip(*((part.errors, part.targets, np.arange(len(part.errors))) for part in parts), strict=True)
    )
    # Divided by nothing, any error is infinite: a number of y that never changes needs no network.
    spread = np.ones(1) if model.manifest.loss == "cross_entropy" else targets.var(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = dict(zip(METHODS, np.moveaxis(errors / spread, 1, 0), strict=True))
    within = [(numbers >= first) & (numbers < (last or math.inf)) for first, last in STRETCHES]
    reports = [part.report for part in parts]
    return Score(
        drives=len(parts),
        samples=len(errors),
        left_out=sum(part.left_out for part in parts),
        errors={name: float(each.mean()) for name, each in relative.items()},
        by_output={name: tuple(each.mean(0).tolist()) for name, each in relative.items()},
        by_stretch={
            name: tuple(float(each[there].mean()) if there.any() else math.nan for there in within)
            for name, each in relative.items()
        },
        tried=sum(report.tried for report in reports),
        refused=dict(sum((Counter(report.refused) for report in reports), Counter())),
        restarts=sum(report.restarts for report in reports),
    )


class _Part(NamedTuple):
    """What one drive gave."""

    errors: NDArray
    """`(samples, methods, out)`."""
    targets: NDArray
    """`(samples, out)`."""
    left_out: int
    report: OnlineReport


def _predict(model: AdaptiveModel, drive: Drive, online: OnlineAdapter) -> _Part:
    """Predict one drive, sample by sample."""
    at_v0, answers = model.fork(), Answers(model.sample_specs[1], model.manifest.normalization)
    usable = _finite(drive.x) & _finite(drive.y)
    usable[usable] = ~(model.bounds.x.absurd(drive.x[usable]) | model.bounds.y.absurd(drive.y[usable]))
    _, x, y, seen, known = drive
    targets = answers.targets(y[usable])
    errors, waiting, due = [], deque[tuple[int, NDArray]](), -math.inf
    for index, target in zip(np.flatnonzero(usable), targets[:, None], strict=True):
        while waiting and known[waiting[0][0]] <= seen[index]:  # the robot knows these y by now
            first, past = waiting.popleft()
            online.label(seen[first], y[first])
            answers.known(past)
        if online.by_sample or seen[index] >= due:
            online.step()
            due = max(due + online.period, seen[index])
        networks = (answers.normalized(each.predict(x[index])[None]) for each in (online.model, at_v0))
        errors.append([answers.errors(each, target)[0] for each in (*networks, answers.mean, answers.last)])
        if known[index] <= seen[index]:
            online.observe(x[index], y[index], at=seen[index])
            answers.known(target)
        else:
            online.observe(x[index], at=seen[index])
            waiting.append((int(index), target))
    shaped = np.reshape(errors, (len(targets), len(METHODS), 1 if answers.classes else targets.shape[1]))
    return _Part(shaped, targets, int((~usable).sum()), online.report())


def _finite(samples: NDArray) -> NDArray[np.bool_]:
    """Which of the samples are, `(samples,)`."""
    return np.all(np.isfinite(samples.reshape(len(samples), math.prod(samples.shape[1:]))), axis=1)


def _checked(model: AdaptiveModel, drive: Drive) -> Drive:
    """Return the drive with arrays of the bundle's dtypes.

    Raises:
        InputError: If it does not fit the bundle, or its times are not in order.
    """
    sides = []
    for spec, value in zip(model.sample_specs, (drive.x, drive.y), strict=True):
        array = spec.convert(value)
        if array.shape[1:] != spec.shape:
            raise InputError(
                f"drive '{drive.name}': {spec.name[-1]} has the shape {array.shape}, but the bundle's samples have "
                f"{spec.shape}; the log is of another robot, or its fields are in another order"
            )
        if spec.classes and not spec.holds_classes(array):
            raise InputError(f"drive '{drive.name}' has a label outside 0 to {spec.classes - 1}, the bundle's classes")
        sides.append(array)
    seen, known = (np.asarray(each, np.float64) for each in (drive.seen, drive.known))
    if not len(sides[0]) == len(sides[1]) == len(seen) == len(known):
        raise InputError(
            f"drive '{drive.name}' has {len(sides[0])} x, {len(sides[1])} y, {len(seen)} times of x and {len(known)} "
            "times of y, but each sample needs one of each"
        )
    if not (np.diff(seen) >= 0).all() or not (np.diff(known) >= 0).all():  # also false for NaN
        raise InputError(f"drive '{drive.name}': its times go back or are NaN; sort its samples by time")
    return Drive(drive.name, sides[0], sides[1], seen, known)
