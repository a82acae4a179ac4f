"""What a bundle with the rule `recursive` runs: updates by one sample, and predictions with deviations."""

import copy
import math
from collections.abc import Callable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.backend import Adaptation, Runs
from msr_runtime.bundle.familiarity import usual_nis
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.bundle.surprise import surprise_parts
from msr_runtime.errors import InputError
from msr_runtime.inference.belief import Belief
from msr_runtime.inference.deviation import Deviations
from msr_runtime.inference.predictor import BoundPredictor
from msr_runtime.inference.state import State
from msr_runtime.inference.updater import Updater
from msr_runtime.task import Array, width


class Recursion:
    """The rule `recursive` of a bundle. Any thread may use it; it keeps no adaptation.

    Args:
        manifest: The manifest of the bundle.
        runs: What computes it.
        time_constant: As in `AdaptiveModel.load`.

    Raises:
        InputError: If the time constant is not above 0.
    """

    def __init__(self, manifest: Manifest, runs: Runs, time_constant: float | None) -> None:
        assert manifest.recursion is not None
        if time_constant is not None and not time_constant > 0:
            raise InputError(
                f"time_constant is {time_constant}, but a time above 0 s is wanted; math.inf forgets nothing"
            )
        self._settings, self._own = manifest.recursion, manifest.recursion.tau
        self._tau = self._own if time_constant is None else time_constant
        self._normalization, self._familiarity = manifest.normalization, manifest.familiarity
        self._runs = runs
        self.outputs = width(manifest.outputs)
        """J, the numbers of one sample's y."""
        self.prior = Belief.prior(manifest.recursion.memory, self.outputs, manifest.filter_parameters)
        """How sure the network at `v0` is of its v."""

    @property
    def updater(self) -> Updater:
        """Runs updates."""
        assert self._runs.updater is not None
        return self._runs.updater

    @property
    def deviations(self) -> Deviations:
        """Predict with deviations."""
        assert self._runs.deviations is not None
        return self._runs.deviations

    def tested(self, runs: Runs) -> Self:
        """Return the same with other runs, and the bundle's own time constant, for a test."""
        other = copy.copy(self)
        other._tau, other._runs = self._own, runs
        return other

    def keep(self, seconds: float | None) -> float:
        """Return what is left of the mean after some time, 0 to 1.

        Args:
            seconds: The time, in s. None stands for the time between two samples of meta-training.

        Raises:
            InputError: If it is no number, negative or not finite.
        """
        try:
            elapsed = self._settings.tick if seconds is None else float(seconds)
        except (TypeError, ValueError, OverflowError):  # an array, a text, an integer beyond all floats
            elapsed = math.nan
        if not 0 <= elapsed < math.inf:
            raise InputError(
                f"seconds is {seconds}, but the time since the last accepted update is wanted, one number, 0 or more; "
                "likely cause: a clock that was set back (take time.monotonic()), or samples out of order"
            )
        return 1.0 if self._tau is None else math.exp(-elapsed / self._tau)

    def adapt(
        self,
        x: Array,
        y: NDArray,
        into: State,
        begin: BoundPredictor | None = None,
        check: Callable[[], None] | None = None,
    ) -> Adaptation:
        """Take the samples of a support set one after another, with the time of meta-training between them.

        Args:
            x: `(shots, *x)` in raw units, checked.
            y: `(shots, *y)` in raw units, checked.
            into: Where the network after all samples is written. If a number is not finite, it holds anything.
            begin: The network to begin at, whose belief stays as it is. None begins at `v0`.
            check: Called before each update. What it raises ends the adaptation.
        """
        block, belief = (self.updater.start.block, self.prior) if begin is None else (begin.block, begin.belief)
        assert belief is not None
        # The prior is nobody's, so it needs no copy.
        run = self.updater.begin(block, belief if begin is None else belief.copy())
        before, keep, nis = self._runs.losses.mean(x, y, run.state), self.keep(None), []
        for sample_x, sample_y in zip(x, y, strict=True):
            if check:
                check()
            found = run.update(sample_x, sample_y, keep)
            if found is None:
                self.updater.end(run)
                return Adaptation(before, math.nan)
            nis.append(found.nis)
        after = self._runs.losses.mean(x, y, run.state)
        into.block[...] = run.block
        end = Adaptation(before, after, run.belief, self._surprise(nis, y))
        self.updater.end(run)
        return end

    def _surprise(self, nis: list[float], y: NDArray) -> float:
        """Return the surprise of the first samples of a task, see `surprise_parts`. NaN if nothing is known of it."""
        if self._familiarity is None:
            return math.nan
        normal = self._normalization.normalize_y(y).reshape(len(y), -1)
        usual = [usual_nis(self._familiarity.usual, count) for count in range(1, len(y) + 1)]
        errors, sizes = surprise_parts(np.array(nis), normal, usual)
        return float(errors.sum() / sizes.sum())
