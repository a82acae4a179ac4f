"""The proof that the exported graphs compute what torch computes, taken before anything is written.

The graphs run in the sessions that the robot uses. Reference is the learner itself in torch float32, behind the
normalisation that training applies in numpy: nothing that the export traced is trusted.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from msr_export.freeze import Frozen, flatten, folded_name, folded_weights
from msr_runtime.bundle import Golden
from msr_runtime.errors import ExportError, ParityError
from msr_runtime.manifest import STEP, Parity, next_name
from msr_runtime.meta.learner import Learner
from msr_runtime.meta.normalization import Normalization
from msr_runtime.session import make_session
from msr_runtime.task import Array

TOLERANCE = 1e-5
SHOTS = (1, 4, 10, 33)
BATCHES = (1, 3, 16)
STEPS = (1, 2, 3, 4, 5)
_CPU = ("CPUExecutionProvider",)
_NOISE = 0.5
"""How far the support's targets lie from the network's own prediction at first, in output scales."""
_ATTEMPTS = 200
_GROWTH = 2.0
"""A support loss that has grown by more than this after any step means that the inner loop diverges."""


def check_parity(
    learner: Learner, normalization: Normalization, frozen: Frozen, seed: int, *, tolerance: float = TOLERANCE
) -> Parity:
    """Compare the graphs with torch on random raw inputs, at several shots, batches and numbers of steps.

    The error of an output, each weight one of its own, is `max |onnx - torch| / max |torch|`, the divisor taken over
    the whole comparison: a bias that a support happens to leave near zero would be divided by next to nothing.

    Inputs are normal around the normalisation's centre; targets are the network's prediction at v0 and noise. Supports
    on which the inner loop diverges in torch itself, as trained ones do on some, are drawn again with less noise: there
    any two orders of summation part company, and the comparison would say nothing of the export.

    Raises:
        ParityError: an output misses the tolerance; the message names it and the figure.
        ExportError: the inner loop diverges in torch on every random support.

    """
    rng = np.random.default_rng(seed)
    predict = make_session(frozen.predict, "predict.onnx", _CPU)
    adapt = make_session(frozen.adapt, "adapt.onnx", _CPU)
    judge = make_session(frozen.loss, "loss.onnx", _CPU)
    sizes: dict[str, float] = {}
    errors: dict[tuple[str, int, int], float] = {}
    for shots in SHOTS:
        support_x, support_y = _draw_support(learner, normalization, rng, shots)
        queries = [normalization.raw_x(rng.standard_normal((size, *learner.inputs))) for size in BATCHES]
        support = {"support_x": support_x, "support_y": support_y}
        v: NDArray = frozen.v0
        weights: dict[str, NDArray] = {**frozen.weights}
        for step in (0, *STEPS):
            seen: dict[str, NDArray] = {}
            if step > 0:
                v, weights, before = _step(adapt, support, v, weights, step - 1)
                seen = {"loss before the step": before, **_slices(learner, v)}
            seen |= weights
            seen["loss"] = _run(judge, ["loss"], {**support, **weights})[0]
            given = weights if step > 0 else {}  # at the start it is predict.onnx's own defaults that act
            seen["y"] = np.concatenate([_run(predict, ["y"], {"x": x, **given})[0] for x in queries])
            wanted = _reference(learner, normalization, support_x, support_y, step, np.concatenate(queries))
            for name, value in seen.items():
                sizes[name] = max(sizes.get(name, 0.0), float(np.abs(wanted[name]).max()))
                errors[name, shots, step] = float(np.abs(value - wanted[name]).max())
    relative = {key: error / (sizes[key[0]] or 1.0) for key, error in errors.items()}
    failed = {key: error for key, error in relative.items() if not error <= tolerance}
    if failed:
        # An error spreads to all that is computed from it: the first, and a weight before a prediction, is the cause.
        name, shots, step = min(failed, key=lambda key: (key[2], key[0] in ("y", "loss"), -np.nan_to_num(failed[key])))
        raise ParityError(
            f"ONNX and torch disagree on '{name}' with {shots} shots after {step} steps: the relative error is "
            f"{failed[name, shots, step]:.1e}, at most {tolerance:.0e} is wanted; the export of that layer or of its "
            "gradient is wrong, or float32 is too coarse for its inner rate or for the normalisation"
        )
    worst = max(relative.values())
    return Parity(max_relative_error=worst, tolerance=tolerance, shots=SHOTS, batches=BATCHES, steps=STEPS)


def check_golden(frozen: Frozen, golden: Golden, *, tolerance: float = TOLERANCE) -> None:
    """Replay the golden example, as every robot will when it loads the bundle.

    Raises:
        ParityError: the graphs miss what torch gave; the message names the output and the figure.

    """
    predict = make_session(frozen.predict, "predict.onnx", _CPU)
    adapt = make_session(frozen.adapt, "adapt.onnx", _CPU)
    judge = make_session(frozen.loss, "loss.onnx", _CPU)
    support = {"support_x": golden.support_x, "support_y": golden.support_y}
    v: NDArray = frozen.v0
    weights: dict[str, NDArray] = {**frozen.weights}
    losses = []
    for step in range(golden.steps):
        v, weights, before = _step(adapt, support, v, weights, step)
        losses += [before] if step == 0 else []
    losses += _run(judge, ["loss"], {**support, **weights})
    figures = {
        "y at v0": (_run(predict, ["y"], {"x": golden.x})[0], golden.y0),
        "adapted v": (v, golden.v),
        "support losses": (np.stack(losses), golden.losses),
        "adapted y": (_run(predict, ["y"], {"x": golden.x, **weights})[0], golden.y),
    }
    for name, (seen, wanted) in figures.items():
        error = float(np.abs(seen - wanted).max()) / (float(np.abs(wanted).max()) or 1.0)
        if not error <= tolerance:
            raise ParityError(
                f"ONNX and torch disagree on the golden example's {name}: the relative error is {error:.1e}, at most "
                f"{tolerance:.0e} is wanted; the inner loop is close to diverging on the family's own tasks"
            )


def _step(
    adapt: Any, support: dict[str, NDArray], v: NDArray, weights: dict[str, NDArray], index: int
) -> tuple[NDArray, dict[str, NDArray], NDArray]:
    """One run of adapt.onnx: v and the weights one step on, and the loss before it."""
    names = [next_name("v"), *map(next_name, weights), "loss"]
    feed = {**support, "v": v, **weights}
    if any(part.name == STEP for part in adapt.get_inputs()):
        feed[STEP] = np.array([index])
    v, *moved, loss = _run(adapt, names, feed)
    return v, dict(zip(weights, moved, strict=True)), loss


def _run(session: Any, names: list[str], feed: dict[str, NDArray]) -> list[NDArray]:
    return [np.asarray(output) for output in session.run(names, feed)]


def _reference(
    learner: Learner, normalization: Normalization, x: Array, y: NDArray, steps: int, query_x: Array
) -> dict[str, NDArray]:
    """What torch gives after `steps` inner steps, by the names that `check_parity` gives the graphs' outputs."""
    support_x, support_y = map(torch.from_numpy, normalization.normalize(x, y))
    adapted = learner.adapt(support_x, support_y, steps)
    weights = folded_weights(learner, adapted)
    values = {name: weight.detach().numpy() for name, weight in weights.items()}
    if steps > 0:
        before = learner.adapt(support_x, support_y, steps - 1)
        values["loss before the step"] = learner.support_loss(before, support_x, support_y).detach().numpy()
    values["loss"] = learner.support_loss(adapted, support_x, support_y).detach().numpy()
    values |= _slices(learner, flatten(learner, adapted).numpy())
    with torch.no_grad():
        y_hat = learner(adapted, torch.from_numpy(normalization.normalize_x(query_x))).numpy()
    values["y"] = normalization.raw_y(y_hat)
    return values


def _draw_support(
    learner: Learner, normalization: Normalization, rng: np.random.Generator, shots: int
) -> tuple[Array, NDArray]:
    """A random support in raw units on which the inner loop is stable in torch."""
    for attempt in range(_ATTEMPTS):
        support_x = normalization.raw_x(rng.standard_normal((shots, *learner.inputs)))
        x = torch.from_numpy(normalization.normalize_x(support_x))
        if learner.classifies:
            support_y: NDArray = rng.integers(learner.outputs[0], size=shots)
        else:
            with torch.no_grad():
                clean = learner(learner.start(), x).numpy()
            noisy = clean + _NOISE * (1 - attempt / _ATTEMPTS) * rng.standard_normal(clean.shape)
            support_y = normalization.raw_y(noisy)
        y = torch.from_numpy(normalization.normalize_y(support_y))
        with torch.no_grad():
            before, *after = (learner.support_loss(learner.adapt(x, y, step), x, y) for step in (0, *STEPS))
        if all(loss <= _GROWTH * before for loss in after):
            return support_x, support_y
    raise ExportError(
        f"the inner loop diverges in torch within {max(STEPS)} steps on {_ATTEMPTS} random supports of {shots} shots: "
        "its rates are too high for a robot to adapt with; train it anew or from a lower inner rate"
    )


def _slices(learner: Learner, v: NDArray) -> dict[str, NDArray]:
    """A row v `(1, K)` cut into its tensors, named after the weights that they make."""
    sizes = [tensor.numel() for tensor in (learner.start()[name] for name in learner.adapted_names)]
    parts = np.split(v, np.cumsum(sizes)[:-1], axis=1)
    return {f"v of {folded_name(name)}": part for name, part in zip(learner.adapted_names, parts, strict=True)}
