"""One update: adapt to a support set, leave out what spoils it, and judge the result. It changes nothing that acts."""

import math
import time
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.family import judge_batch
from msr_runtime.adaptation.judges import HeldOut, judge
from msr_runtime.adaptation.repeats import stuck
from msr_runtime.adaptation.result import AdaptResult
from msr_runtime.adaptation.robust import SHARE, Fit, Fitting
from msr_runtime.adaptation.sessions import Check, Samples, Sessions
from msr_runtime.adaptation.start import Start
from msr_runtime.adaptation.update_guard import NOT_FINITE, Objection, UpdateGuard, stuck_y, too_many_outside
from msr_runtime.inference.input_bounds import Outside, SampleBounds
from msr_runtime.inference.predictor import BoundPredictor


class Update(NamedTuple):
    """What an update came to."""

    result: AdaptResult
    network: BoundPredictor | None
    """The adapted network; None if it must not act."""


def make_update(
    sessions: Sessions,
    bounds: SampleBounds,
    support: Samples,
    *,
    began: float,
    acting: BoundPredictor,
    steps: int,
    start: Start,
    held_out: Samples | None,
    guard: UpdateGuard,
    check: Check | None,
    in_order: bool,
) -> Update:
    """Adapt to a support set and judge the result.

    Args:
        sessions: The sessions of the bundle.
        bounds: The bounds of its fields.
        support: The support set.
        began: When the call began, by `time.perf_counter`.
        acting: The network that acts now.
        steps: Inner steps.
        start: Where they begin.
        held_out: The samples that judge.
        guard: What the update must fulfill.
        check: Called before each inner step.
        in_order: Whether the support set is in the order of time.

    Raises:
        InputError: As `UpdateGuard.limits` does.
    """
    x, y, outside = support
    # A y outside its bounds is no measurement: it is never learned from, and never judges. Which samples are meant is
    # looked up only where some value is outside.
    if held_out and held_out.outside:
        inside = ~bounds.y.outside(held_out.y)
        held_out = Samples(held_out.x[inside], held_out.y[inside], {}) if inside.any() else None
    limits = guard.limits(sessions.measured, steps, start, sessions.scale)
    kept = np.flatnonzero(~bounds.y.outside(y)) if outside else _all(len(x))
    wrong, most = len(x) - len(kept), len(x) // SHARE
    if wrong > most:
        return _untried(too_many_outside(wrong, len(x)), steps, began, outside)
    inside = (x[kept], y[kept]) if wrong else (x, y)
    found = stuck(sessions.support[1].fields, sessions.measured.scale, *inside)
    if found and found[0] and not guard.constant_y:
        return _untried(stuck_y(found[1]), steps, began, outside)
    fitting = Fitting(sessions, x, y, steps, acting, None if start == "v0" else acting, limits, check)
    fit = fitting.robustly(kept, most - wrong, in_order=in_order)
    if fit.begins is not None:
        # A sensor that gets stuck looks like another task, and no held-out sample is known to be of the new one.
        latest, held_out = fit.kept[-sessions.measured.enough :], None
        found = stuck(sessions.support[1].fields, sessions.measured.scale, x[latest], y[latest])
        if found and found[0] and not guard.constant_y:
            return _untried(stuck_y(found[1]), steps, began, outside)
    verdict = _verdict(sessions, acting, fit, held_out)
    adapted = fit.adapted
    losses = adapted.loss_before, adapted.loss_after
    objection = NOT_FINITE if adapted.predictor is None else guard.judge(fit.limits, fit.move, losses, verdict)
    refusal, reason = objection or (None, None)
    result = AdaptResult(
        accepted=objection is None,
        loss_before=adapted.loss_before,
        loss_after=adapted.loss_after,
        steps=steps,
        seconds=time.perf_counter() - began,
        reason=reason,
        refusal=refusal,
        held_out=verdict,
        outside=outside,
        left_out=() if len(fit.kept) == len(x) else tuple(np.setdiff1d(np.arange(len(x)), fit.kept).tolist()),
        move=fit.move,
        limits=fit.limits,
        few_samples=sessions.measured.too_few(x if len(fit.kept) == len(x) else x[fit.kept]),
        stuck=found[1] if found else None,
        begins=fit.begins,
        family=judge_batch(sessions.familiarity, adapted.surprise, len(fit.kept)) if start == "v0" else None,
    )
    return Update(result, adapted.predictor if objection is None else None)


@lru_cache(32)
def _all(samples: int) -> NDArray[np.intp]:
    """The indices of so many samples. Only read them."""
    return np.arange(samples)


def _untried(objection: Objection, steps: int, began: float, outside: Outside) -> Update:
    """The update to samples that are refused as they are. Nothing was computed."""
    seconds = time.perf_counter() - began
    refusal, reason = objection
    return Update(AdaptResult(False, math.nan, math.nan, steps, seconds, reason, refusal, None, outside), None)


def _verdict(sessions: Sessions, acting: BoundPredictor, fit: Fit, held_out: Samples | None) -> HeldOut | None:
    adapted = fit.adapted.predictor
    if held_out is None or adapted is None:
        return None
    before, after = (sessions.losses(held_out.x, held_out.y, network) for network in (acting, adapted))
    return judge(before, after)
