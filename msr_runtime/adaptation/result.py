"""The result of one adaptation."""

import math
from typing import NamedTuple

from msr_runtime.adaptation.family import FamilyVerdict
from msr_runtime.adaptation.judges import HeldOut
from msr_runtime.adaptation.measured import NO_LIMITS, Limits
from msr_runtime.adaptation.update_guard import Refusal
from msr_runtime.inference.input_bounds import Outside


class AdaptResult(NamedTuple):
    """What one adaptation did. `AdaptiveModel.adapt` returns it.

    Example:
        >>> import numpy as np
        >>> from msr_runtime import AdaptiveModel
        >>> x = np.random.default_rng(0).uniform(0, 1, (10, 18))
        >>> result = AdaptiveModel.load(bundle).adapt(x, 0.1 * x[:, :2], steps=2)
        >>> result.accepted, result.steps, result.reason
        (True, 2, None)
        >>> result.loss_after < result.loss_before
        True
    """

    accepted: bool
    """True if the adapted weights act now. If False, the earlier weights still act."""
    loss_before: float
    """Support loss where the inner loop began, on normalized outputs."""
    loss_after: float
    """Support loss at the adapted `v`, on normalized outputs."""
    steps: int
    """Number of inner steps."""
    seconds: float
    """Duration of the whole call in s, from checking the samples to the swap of the weights."""
    reason: str | None
    """Why the update was refused, as a sentence; None if it was accepted."""
    refusal: Refusal | None
    """Why the update was refused, as a name to count by; None if it was accepted."""
    held_out: HeldOut | None
    """Loss on the held-out samples. None if there were no such samples, or if the adapted weights were not finite."""
    outside: Outside
    """Samples of the support set with a value outside the bounds of its field, by side and field: `{"x.goal": 3}`."""
    left_out: tuple[int, ...] = ()
    """Indices of the support samples that were not learned from: their y is outside the bounds of its field, they
    spoil the update, or they are of the task before. `loss_before` and `loss_after` are those of the others."""
    move: float = math.nan
    """How far the adapted v is from `v0`: `|v - v0| / |v0|`, or `|v|` where `v0` is zero. NaN if it is not finite."""
    limits: Limits = NO_LIMITS
    """The limits of support loss and move that held for this update."""
    few_samples: str | None = None
    """A sentence if the support set is so small that adapting often makes the network worse, as measured at export.
    Samples with the same x count once."""
    stuck: str | None = None
    """A sentence if some numbers of y are the same in all samples although x differs: a sensor may be stuck. If all
    are, the update is refused, see `Refusal.STUCK`."""
    begins: int | None = None
    """The index of the first support sample of a new task, if the task changed among samples that are in order. Those
    before it are among `left_out`, and no held-out sample judges. None if no change was noticed."""
    family: FamilyVerdict | None = None
    """With the rule `recursive`, from `v0` on: whether the samples look like those of a task of meta-training. One
    clean support set in a hundred does not. None with other rules."""

    @property
    def missed(self) -> float:
        """By how much a limit was missed: the larger ratio of loss and move to their limits. At most 1 is within both.

        NaN if there is no figure, because the weights are not finite.
        """
        return math.nan if math.isnan(self.move) else self.limits.missed_by(self.loss_after, self.move)
