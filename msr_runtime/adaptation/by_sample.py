"""Learning sample by sample, and predictions that say how sure they are: what a model can do with rule `recursive`."""

import math
import threading
import time

import numpy as np
from numpy.typing import ArrayLike

from msr_runtime.adaptation.recursion import Recursion
from msr_runtime.adaptation.sessions import Sessions, check_sample
from msr_runtime.adaptation.update_guard import NOT_FINITE, Objection, Refusal
from msr_runtime.adaptation.update_result import UpdateResult
from msr_runtime.bundle.input_faults import slopes
from msr_runtime.bundle.store import Bundle
from msr_runtime.errors import InputError
from msr_runtime.inference.deviation import Prediction
from msr_runtime.inference.input_bounds import Outside, SampleBounds, listed
from msr_runtime.inference.predictor import BoundPredictor
from msr_runtime.task import Array

_NOTHING = 2.0**-24
"""The smallest share of what was learned that float32 can still show. Less is left after 17 time constants."""


class LearnsBySample:
    """The part of `AdaptiveModel` that needs a bundle with the rule `recursive`."""

    bundle: Bundle
    bounds: SampleBounds
    _sessions: Sessions
    _acting: BoundPredictor
    _changes: threading.RLock

    def update(self, x: ArrayLike, y: ArrayLike, seconds: float | None = None) -> UpdateResult:
        """Learn from one sample. The model knows how sure it is, so the first sample counts most. It acts at once.

        It takes as long as some predictions. Some calls take longer: after 2, 3, 4, 6, 8, 12 samples and so on since
        `v0`, up to `manifest.recursion.relinearize`, all samples so far are linearized again, which takes one more
        update for each of them. It needs a bundle with the rule `recursive`. `predict` in other threads goes on.

        Args:
            x: One observation `(obs,)`, in raw units.
            y: What came out `(out,)`, in raw units.
            seconds: The time since the last accepted update, in s. Where the bundle has a time constant, what was
                learned fades with it. After 17 time constants nothing is left: the model begins at `v0`, as after
                `reset`. None stands for the time between two samples of meta-training.

        Returns:
            What the sample said about the model. A sample whose y is outside the bounds of its field, or that leads to
            a number that is not finite, is refused: the model stays as it was, and no time passes.

        Raises:
            InputError: If the bundle has another rule; if a shape, dtype or value is wrong, a value is further outside
                its bounds than the manifest's `input_limit`, or `seconds` is no number, negative or not finite. The
                model stays as it was.
        """
        began, recursion = time.perf_counter(), self._recursion("update()")
        keep = recursion.keep(seconds)
        specs = self._sessions.support
        x, y = check_sample(specs, x, y)
        outside: Outside = {}
        if not self.bounds.hold(x, y):
            outside = self.bounds.count(specs, x[None], y[None])
            if not self.bounds.y.hold(y):
                return _refused(_outside(outside), y, began, outside)
        with self._changes:
            acting = self._acting
            begin = self._sessions.start if keep < _NOTHING else acting
            assert begin.belief is not None
            run = recursion.updater.begin(begin.block, begin.belief)
            found = run.update(x, y, keep)
            if found is not None:
                # one atomic assignment: `predict` sees the old weights or the new, never a mix
                self._acting = self._sessions.predictors.make(run.block, acting, run.belief)
            recursion.updater.end(run)
        if found is None:
            return _refused(NOT_FINITE, y, began, outside)
        return UpdateResult(True, found.error, found.variance, found.nis, time.perf_counter() - began, outside=outside)

    def slopes(self, x: Array, steps: Array) -> Array:
        """Return how the acting network's output changes with each number of x, around one observation.

        Args:
            x: One observation `(obs,)` that is no image, in raw units.
            steps: How far to move it, see `msr_runtime.bundle.input_faults.steps_of`.

        Returns:
            The change of y in raw units per scale of the number, `(obs, numbers of y)`.

        Raises:
            InputError: If `x` has another shape or is not finite.
        """
        acting = self._acting  # one for all: another thread may swap it
        return slopes(lambda near: acting(near).reshape(len(near), -1), x, steps)

    def inflate(self, factor: float) -> None:
        """Be less sure of what was learned: multiply every variance by `factor`, up to those before the first sample.

        The weights stay. The next samples count more. Call it when the robot knows that the task has changed a little,
        such as by another tool; after a change of everything, `reset` is better.

        Args:
            factor: At least 1. Infinity forgets how sure the model was, and keeps its weights.

        Raises:
            InputError: If the bundle has another rule, or the factor is below 1. The model stays as it was.
        """
        self._recursion("inflate()")
        with self._changes:
            acting = self._acting
            assert acting.belief is not None
            if (belief := acting.belief.inflated(factor)) is not acting.belief:
                self._acting = self._sessions.predictors.make(acting.block, acting, belief)

    def _predict_with_deviations(self, x: ArrayLike) -> Prediction:
        recursion, acting = self._recursion("predict(std=True)"), self._acting
        prediction = recursion.deviations(x, acting)
        assert acting.belief is not None
        if acting.belief.intact:
            return prediction
        # Two updates have ended meanwhile, so the rows were no longer those of `acting`. A large batch may always take
        # that long. So now the rows are copied first: that is done before two more updates are.
        while True:
            acting = self._acting
            assert acting.belief is not None
            belief = acting.belief.copy()
            if acting.belief.intact:
                return recursion.deviations(x, self._sessions.predictors.make(acting.block, acting, belief))

    def _recursion(self, asked: str) -> Recursion:
        if self._sessions.recursion is None:
            raise InputError(
                f"{asked} needs a bundle with the rule 'recursive', but bundle '{self.bundle.path}' has "
                f"'{self.bundle.manifest.rule}'; train with --learner.rule recursive, or adapt to a support set with "
                "adapt()"
            )
        return self._sessions.recursion


def _refused(objection: Objection, y: Array, began: float, outside: Outside) -> UpdateResult:
    unknown = np.full_like(y, np.nan)
    refusal, reason = objection
    return UpdateResult(False, unknown, unknown, math.nan, time.perf_counter() - began, reason, refusal, outside)


def _outside(outside: Outside) -> Objection:
    return Objection(
        Refusal.OUTSIDE,
        f"the sample's y is outside the bounds of its field ({listed(outside)}), so it is no measurement; likely "
        "cause: another unit, a stuck sensor, or bounds in the task family that are too narrow",
    )
