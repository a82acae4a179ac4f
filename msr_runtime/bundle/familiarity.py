"""What a bundle says of how much the samples of clean tasks surprise its network."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Self

from pydantic import Field, model_validator

from msr_runtime.bundle.frozen import Count, Frozen

_TENTH = 0.1
_LARGEST_GROWTH = 700.0  # `exp` of more is no float


class Tail(Frozen):
    """How large a figure becomes on clean tasks: beyond its usual largest value, it falls off like a power."""

    usual: float = Field(gt=0, allow_inf_nan=False)
    """On one task in ten, the figure is larger."""
    slope: float = Field(ge=0, le=10)
    """How fast the figure grows for rarer tasks. One task in a hundred has a figure above `10 ** slope` times `usual`,
    one in a thousand above `100 ** slope` times `usual`."""

    def limit(self, chance: float) -> float:
        """Return the limit that a clean task exceeds with this chance. The chance counts as 0.1 if it is larger."""
        growth = self.slope * math.log(_TENTH / min(chance, _TENTH))
        return self.usual * math.exp(min(growth, _LARGEST_GROWTH))

    def times(self, factor: float) -> Self:
        """Return the same of a figure that is larger by a factor, rounded to four digits."""
        return self.model_copy(update={"usual": float(f"{factor * self.usual:.4g}")})


class ShotTail(Frozen):
    """The surprise of a support set of one size."""

    shots: Count
    """Support samples."""
    surprise: Tail
    """Its surprise, from `v0` on."""


class UsualInnovation(Frozen):
    """How large the normalized innovation squared of a sample is on clean tasks, by the samples learned until then."""

    samples: Count
    """It holds up to this sample of a task, this one included."""
    nis: float = Field(gt=0, allow_inf_nan=False)
    """The mean of the normalized innovations squared, per number of y."""


class FaultTail(Frozen):
    """How strong the evidence is that one number of x is at fault, see `msr_runtime.bundle.input_faults`.

    On one stream in ten, the evidence is larger than `usual` for a gain or an offset, after any number of samples.
    """

    samples: int = Field(ge=2, le=4096)
    """After so many samples of a task. The robot keeps a limit for each number of samples up to the last one."""
    gain: Tail
    """The largest of all numbers of x, for a gain."""
    offset: Tail
    """The same for an offset."""


def usual_nis(usual: Sequence[UsualInnovation], count: int) -> float:
    """Return the usual normalized innovation squared, per number of y.

    Args:
        usual: As in `Familiarity`.
        count: Which sample of a task it is; the first one is 1.

    """
    if not usual:
        return 1.0
    found = bisect_left(usual, count, key=lambda each: each.samples)
    return usual[min(found, len(usual) - 1)].nis


class Familiarity(Frozen):
    """How much the samples of clean tasks surprise a network that learns them one by one.

    A sample counts by its normalized innovation squared per number of y, over the one that is usual after as many
    samples, and at most 25. The surprise of samples is the mean of these, over the mean of 1 plus the mean square of
    normalized y: errors grow with y. The robot compares that of its own samples with these figures. Above them, its
    task is unlike those of meta-training. They were measured in torch when the bundle was written.
    """

    tasks: Count
    """The number of streams."""
    samples: Count
    """Samples of each stream."""
    window: Count
    """Samples of a window, at most those of a stream."""
    usual: tuple[UsualInnovation, ...] = ()
    """What is usual, fewest samples first. The last one holds for all later samples too. Empty: 1, as in bundles that
    are older than this field."""
    largest: Tail
    """The largest surprise of a window, in a stream."""
    by_shots: tuple[ShotTail, ...] = Field(min_length=1)
    """That of whole support sets, smallest number of shots first."""
    faults: tuple[FaultTail, ...] = ()
    """How strong the evidence for faults of one number of x is, fewest samples first. Empty where none is watched: x is
    an image or has more than 64 numbers, or the bundle is older than this field."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.window > self.samples:
            raise ValueError(
                f"window is {self.window}, but a stream has {self.samples} samples, and no window is longer"
            )
        for name, counts in (
            ("usual", [each.samples for each in self.usual]),
            ("by_shots", [each.shots for each in self.by_shots]),
            ("faults", [each.samples for each in self.faults]),
        ):
            if any(later <= earlier for earlier, later in pairwise(counts)):
                raise ValueError(f"{name} was measured after {counts} samples, but rising numbers are wanted")
        return self
