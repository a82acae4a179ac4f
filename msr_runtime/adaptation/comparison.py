"""Does adapting help here? A running comparison of the adapted network with three answers that do not adapt."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from msr_runtime.inference.sample_spec import SampleSpec
from msr_runtime.normalization import Normalization

_ERRORS = 3.0
"""A difference counts if it is larger than so many standard errors. Neighboring samples resemble each other, so two,
as for independent ones, would be too few."""
_FEWEST = 10.0
"""Samples below which nothing is said."""
METHODS = ("adapted", "v0", "mean", "last")
"""The methods that are compared, as `Helping` names them."""


class Verdict(StrEnum):
    """Whether adapting helps, by the latest samples."""

    HELPS = "helps"
    """The adapted network is better than the network at `v0`, by more than chance."""
    HURTS = "hurts"
    """It is worse, by more than chance."""
    UNDECIDED = "undecided"
    """There are too few samples, or the difference may be chance."""


@dataclass(frozen=True)
class Helping:
    """How well the adapted network predicts samples before it learns from them, beside answers that need no adapting.

    An error is the mean squared error on normalized outputs; of a classifier it is the share of wrong labels. Both
    are averages in which the weight of a sample falls by the factor e over as many samples as `memory` says. NaN
    without samples.
    """

    samples: int
    """Samples that were compared so far."""
    memory: float
    """Over so many samples, a weight falls by the factor e."""
    adapted: float
    """The error of the adapted network, just before it learns from the sample."""
    v0: float
    """The error of the network without adapting."""
    mean: float
    """The error of answering with the running mean of y; of a classifier, with the most frequent label."""
    last: float
    """The error of answering with the y known last."""
    verdict: Verdict
    """Whether adapting helps, compared with `v0`."""

    def __str__(self) -> str:
        errors = ", ".join(f"{name} {getattr(self, name):.3g}" for name in METHODS)
        return f"{errors} (latest {self.memory:g} samples or so): adapting {_WORDS[self.verdict]}"


_WORDS = {Verdict.HELPS: "helps", Verdict.HURTS: "hurts", Verdict.UNDECIDED: "makes no clear difference"}


class Answers:
    """What needs no network: the running mean of the known y, and the last of them. On normalized outputs.

    Before the first y is known, both answer with the center of the training data. Labels count as vectors with a one
    at their class, so that the mean holds how frequent each label is.

    Args:
        y: What one y is.
        normalization: Center and scale of y.
        memory: Over so many samples, the weight of a sample in the mean falls by the factor e. Infinity: never.
    """

    def __init__(self, y: SampleSpec, normalization: Normalization, memory: float = math.inf) -> None:
        self.classes = y.classes
        """The number of classes; 0 if y are no labels."""
        self._keep, self._weight = math.exp(-1 / memory), 0.0
        # Labels have no units: what is normalized of a classifier is what it says of each class.
        shape = (y.classes,) if y.classes else y.shape
        self._center = np.broadcast_to(normalization.output_center, shape).reshape(-1)
        self._scale = np.broadcast_to(normalization.output_scale, shape).reshape(-1)
        self.mean, self.last = np.zeros((1, len(self._center))), np.zeros((1, len(self._center)))
        """What both answer now, `(1, out)` each."""

    def targets(self, y: NDArray) -> NDArray[np.float64]:
        """Return y `(samples, *y)` in raw units, or labels `(samples,)`, as normalized vectors `(samples, out)`."""
        return np.eye(self.classes)[y] if self.classes else self.normalized(y)

    def normalized(self, outputs: NDArray) -> NDArray[np.float64]:
        """Return outputs of a network `(samples, *y)` in raw units as normalized vectors `(samples, out)`."""
        return (outputs.reshape(len(outputs), len(self._center)) - self._center) / self._scale

    def errors(self, answers: NDArray, targets: NDArray) -> NDArray[np.float64]:
        """Return the squared error of each output `(samples, out)`; of a classifier, what is wrong, `(samples, 1)`."""
        if self.classes:
            return (answers.argmax(1) != targets.argmax(1))[:, None].astype(np.float64)
        return (answers - targets) ** 2

    def known(self, targets: NDArray) -> tuple[NDArray, NDArray]:
        """Take in normalized y in their order.

        Args:
            targets: `(samples, out)`.

        Returns:
            The mean and the last y as they were before each of them, `(samples, out)` each.
        """
        means, lasts = [], np.concatenate([self.last, targets[:-1]])
        for target in targets:
            means.append(self.mean)
            self._weight = self._keep * self._weight + 1
            self.mean = self.mean + (target - self.mean) / self._weight
        self.last = targets[-1:]
        return np.concatenate(means), lasts


class Comparison:
    """Compares the methods. One thread adds, any thread may read.

    Args:
        y: What one y is.
        normalization: Center and scale of y.
        memory: As in `Helping`.
    """

    def __init__(self, y: SampleSpec, normalization: Normalization, memory: float) -> None:
        self._answers, self._memory, self._keep = Answers(y, normalization, memory), memory, math.exp(-1 / memory)
        self._count, self._weight, self._squares = 0, 0.0, 0.0
        self._errors = np.zeros(len(METHODS))
        # The mean sees a few large rises, the share (a - b) / (a + b) sees many small ones beside a few large ones.
        self._rises, self._spreads = np.zeros(2), np.zeros(2)
        self.now = Helping(0, memory, math.nan, math.nan, math.nan, math.nan, Verdict.UNDECIDED)
        """The comparison so far."""

    def add(self, adapted: NDArray, at_v0: NDArray, y: NDArray) -> dict[str, float]:
        """Add samples in their order.

        Args:
            adapted: What the adapted network answered before it learned from them, `(samples, *y)` in raw units.
            at_v0: What the network at `v0` answered, `(samples, *y)` in raw units.
            y: The right answers, `(samples, *y)` in raw units, or labels `(samples,)`.

        Returns:
            The mean error of each of the `METHODS` on these samples. Empty if none is finite.
        """
        answers = self._answers
        targets = answers.targets(y)
        given = answers.normalized(adapted), answers.normalized(at_v0), *answers.known(targets)
        errors = np.stack([answers.errors(each, targets).mean(1) for each in given], 1)
        errors = errors[np.isfinite(errors).all(1)]  # an overflow in a network must not spoil every later figure
        if not len(errors):
            return {}
        rise, size = errors[:, 0] - errors[:, 1], errors[:, 0] + errors[:, 1]
        rises = np.stack([rise, rise / np.where(size > 0, size, 1)], 1)
        weights = self._keep ** np.arange(len(errors) - 1.0, -1, -1)  # the last sample counts most
        faded = self._keep ** len(errors)
        old = faded * self._weight
        self._weight, self._squares = old + weights.sum(), faded**2 * self._squares + (weights**2).sum()
        self._errors = (old * self._errors + weights @ errors) / self._weight
        mean = (old * self._rises + weights @ rises) / self._weight
        spreads = old * (self._spreads + (self._rises - mean) ** 2) + weights @ (rises - mean) ** 2
        self._count, self._rises, self._spreads = self._count + len(errors), mean, spreads / self._weight
        # one assignment of a finished value: another thread reads the figures of one moment
        figures = dict(zip(METHODS, self._errors.tolist(), strict=True))
        self.now = Helping(self._count, self._memory, **figures, verdict=self._verdict())
        return dict(zip(METHODS, errors.mean(0).tolist(), strict=True))

    @property
    def better(self) -> bool:
        """Whether the running error of the adapted network is no larger than that of `v0`, even if only by chance."""
        return bool(self._rises[0] <= 0)

    def _verdict(self) -> Verdict:
        independent = self._weight**2 / self._squares
        if independent < _FEWEST:
            return Verdict.UNDECIDED
        noises = np.sqrt(self._spreads / (independent - 1))
        way = math.copysign(1.0, self._rises[0])
        if not (way * self._rises > _ERRORS * noises).any():
            return Verdict.UNDECIDED
        return Verdict.HURTS if way > 0 else Verdict.HELPS
