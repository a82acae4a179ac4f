"""The proof that the exported graphs compute what torch computes. It is made before anything is written to disk.

A parity check gives the same support sets and queries to both sides and compares every output:

    torch          support -> learner.adapt, k steps      -> weights -> loss, predictions
    ONNX Runtime   support -> adapt.onnx, run k times     -> weights -> loss.onnx, predict.onnx

    error = max |onnx - torch| / max |torch|, at most 1e-5

The graphs run in the sessions that the robot uses. The reference is the learner itself in torch float32, with the
normalization in numpy, as in training. So the check relies on nothing that the export has traced.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap

from msr_export.folding import folded_name, folded_weights
from msr_export.freeze import Frozen, flatten
from msr_export.recursion_parity import TOLERANCE, adapt_by_samples
from msr_export.support import adapted_after, draw_support
from msr_runtime.bundle.manifest import LOSS_AFTER, LOSSES, STEP, Parity, next_name
from msr_runtime.bundle.store import Golden
from msr_runtime.errors import ParityError
from msr_runtime.inference.many_samples import ManySamples
from msr_runtime.inference.session import make_session
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.gauss_newton import GaussNewton
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array

SHOTS = (1, 4, 10, 33)
"""The numbers of support samples that are compared."""
BATCHES = (1, 3, 16)
"""The numbers of queries that are compared."""
STEPS = (1, 2, 3, 4, 5)
"""The numbers of inner steps that are compared."""
MANY = 1024
"""A large number of support samples, compared after the first steps."""
_NUMBERS = 2**20
"""Most numbers of x in such a support set: of large images, it has fewer."""
_FEW_STEPS = (1, 2)
_LOSSES_OF_A_STEP = {"loss": "loss before the step", LOSS_AFTER: "loss after the step"}
"""Outputs of adapt.onnx to what messages call them."""
_CPU = ("CPUExecutionProvider",)


def check_parity(
    learner: Learner,
    normalization: Normalization,
    frozen: Frozen,
    inputs: Array,
    seed: int,
    *,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compare the graphs with torch, at several shots, batches and numbers of steps.

    The error of an output is `max |onnx - torch| / max |torch|`. Every weight is an output of its own. Predictions are
    compared in normalized units, so that pascals do not hide farads. The divisor is the maximum over the whole
    comparison: a bias that one support set leaves near zero would otherwise be divided by almost nothing.

    The inputs of a support set are drawn from `inputs`. Its targets are the network's prediction at v0 plus noise, so
    that the comparison needs no task. Queries are normally distributed around the normalization's center, and so leave
    no direction out. Support sets on which float32 itself is not good enough are drawn again (`support.draw_support`).

    Args:
        learner: The learner, as in `export_bundle`.
        normalization: The normalization under which it was trained.
        frozen: The graphs.
        inputs: Samples of x in raw units, `(samples, ...)`: such as the robot sees. The inner loop of a trained learner
            may diverge on others.
        seed: The seed of all draws.
        tolerance: The largest relative error allowed.

    Raises:
        ParityError: An output misses the tolerance. The message names the output and its error.
        ExportError: The inner loop diverges in torch on every support set that was drawn.

    """
    rng = np.random.default_rng(seed)
    predict = make_session(frozen.predict, "predict.onnx", _CPU)
    adapt = make_session(frozen.adapt, "adapt.onnx", _CPU)
    judge = make_session(frozen.loss, "loss.onnx", _CPU)
    sizes: dict[str, float] = {}
    errors: dict[tuple[str, int, int], float] = {}
    many = _many(learner, frozen)
    # Both ways of a step have to hold for any number of samples, so the graphs for many are compared with one, too.
    own = STEPS if learner.rule else _FEW_STEPS  # more steps than one leave class means as they are
    cases: list[tuple[int, tuple[int, ...], ManySamples | None]] = [(shots, own, None) for shots in SHOTS]
    cases += [(1, _FEW_STEPS, many)] if many else []
    # The system of adapt.onnx alone grows with the samples: a thousand of them would take minutes.
    if many or not isinstance(learner.rule, GaussNewton):
        most = max(SHOTS[-1] + 1, min(MANY, _NUMBERS // math.prod(learner.inputs)))
        cases.append((most, _FEW_STEPS, many))
    for shots, steps, by in cases:
        support_x, support_y = draw_support(learner, normalization, inputs, rng, shots, steps)
        queries = [normalization.raw_x(rng.standard_normal((size, *learner.inputs))) for size in BATCHES]
        support = {"support_x": support_x, "support_y": support_y}
        v: NDArray = frozen.v0
        weights: dict[str, NDArray] = {**frozen.weights}
        x, y = map(torch.from_numpy, normalization.normalize(support_x, support_y))
        with torch.no_grad():
            path = adapted_after(learner, x, y, steps)
        for step in (0, *steps):
            seen: dict[str, NDArray] = {}
            if step > 0:
                if by:
                    v, loss = by.step(support_x, support_y, v, step - 1)
                    weights, losses = {**by.fold(support_x, support_y, v)}, {"loss": np.array(loss, np.float32)}
                else:
                    v, weights, losses = _step(adapt, support, v, weights, step - 1)
                seen = {_LOSSES_OF_A_STEP[name]: loss for name, loss in losses.items()} | _slices(learner, v)
            seen |= weights
            seen["loss"], seen[LOSSES] = _run(judge, ["loss", LOSSES], {**support, **weights})
            given = weights if step > 0 else {}  # at the start, test predict.onnx's own default weights
            seen["y"] = np.concatenate([_run(predict, ["y"], {"x": query_x, **given})[0] for query_x in queries])
            wanted = _reference(learner, normalization, x, y, path[max(0, step - 1) : step + 1], queries)
            for name, value in seen.items():
                size, error = _compare(normalization, name, value, wanted[name])
                sizes[name] = max(sizes.get(name, 0.0), size)
                errors[name, shots, step] = max(errors.get((name, shots, step), 0.0), error, key=_nan_last)
    relative = {key: error / (sizes[key[0]] or 1.0) for key, error in errors.items()}
    # `not error <= tolerance` is also true for NaN.
    failed = {key: error for key, error in relative.items() if not error <= tolerance}
    if failed:
        # An error spreads to everything that is computed from it. So the cause is the one at the earliest step, and a
        # weight rather than a prediction or loss, and the loss rather than that of each sample.
        rank = {"y": 1, "loss": 1, LOSSES: 2}
        name, shots, step = min(failed, key=lambda key: (key[2], rank.get(key[0], 0), -np.nan_to_num(failed[key])))
        raise ParityError(
            f"ONNX and torch disagree on '{name}' with {shots} shots after {step} steps: the relative error is "
            f"{failed[name, shots, step]:.1e}, at most {tolerance:.0e} is wanted; either the export of that layer or "
            "its gradient is wrong, or float32 is too coarse for its inner rate or for the normalization: check the "
            "scale of the inputs, and train with a lower inner_rate or more damping"
        )
    worst = max(relative.values())
    shots = tuple(sorted({case[0] for case in cases}))
    return Parity(max_relative_error=worst, tolerance=tolerance, shots=shots, batches=BATCHES, steps=own)


def check_golden(frozen: Frozen, normalization: Normalization, golden: Golden, *, tolerance: float = TOLERANCE) -> None:
    """Replay the golden example, as every robot does when it loads the bundle.

    Raises:
        ParityError: The graphs miss torch's result. The message names the output and the error.

    """
    predict = make_session(frozen.predict, "predict.onnx", _CPU)
    judge = make_session(frozen.loss, "loss.onnx", _CPU)
    support = {"support_x": golden.support_x, "support_y": golden.support_y}
    v: NDArray = frozen.v0
    weights: dict[str, NDArray] = {**frozen.weights}
    losses = []
    if frozen.recursion:
        losses += _run(judge, ["loss"], {**support, **weights})
        weights = {**adapt_by_samples(frozen, golden.support_x, golden.support_y)}
        v = weights.pop("v")
    else:
        adapt = make_session(frozen.adapt, "adapt.onnx", _CPU)
        for step in range(golden.steps):
            v, weights, seen = _step(adapt, support, v, weights, step)
            losses += [seen["loss"]] if step == 0 else []
    losses += _run(judge, ["loss"], {**support, **weights})
    errors = golden.errors(
        normalization,
        v=v,
        losses=np.stack(losses),
        y0=_run(predict, ["y"], {"x": golden.x})[0],
        y=_run(predict, ["y"], {"x": golden.x, **weights})[0],
    )
    for name, error in errors.items():
        if not error <= tolerance:
            raise ParityError(
                f"ONNX and torch disagree on the golden example's {name}: the relative error is {error:.1e}, at most "
                f"{tolerance:.0e} is wanted; most likely the inner loop is close to diverging on the family's own "
                "tasks: train with a lower inner_rate or more damping"
            )


def _compare(normalization: Normalization, name: str, seen: NDArray, wanted: NDArray) -> tuple[float, float]:
    """Return the size of an output in torch and its error: predictions in normalized units, all others as they are."""
    if name == "y":
        return normalization.compare_y(seen, wanted)
    return float(np.abs(wanted).max()), float(np.abs(seen - wanted).max())


def _step(
    adapt: Any, support: dict[str, NDArray], v: NDArray, weights: dict[str, NDArray], index: int
) -> tuple[NDArray, dict[str, NDArray], dict[str, NDArray]]:
    """Run adapt.onnx once. Returns v and the weights after the step, and the losses that it gives."""
    losses = [part.name for part in adapt.get_outputs() if part.name in _LOSSES_OF_A_STEP]
    names = [next_name("v"), *map(next_name, weights), *losses]
    feed = {**support, "v": v, **weights}
    if any(part.name == STEP for part in adapt.get_inputs()):
        feed[STEP] = np.array([index])
    values = dict(zip(names, _run(adapt, names, feed), strict=True))
    return values[next_name("v")], {name: values[next_name(name)] for name in weights}, {n: values[n] for n in losses}


def _run(session: Any, names: list[str], feed: dict[str, NDArray]) -> list[NDArray]:
    """Run a session and return its outputs as arrays."""
    return [np.asarray(output) for output in session.run(names, feed)]


def _reference(
    learner: Learner, normalization: Normalization, x: Tensor, y: Tensor, path: list[Tensors], queries: list[Array]
) -> dict[str, NDArray]:
    """What torch gives after a step, under the names that `check_parity` uses for the graphs' outputs.

    Args:
        learner: The learner.
        normalization: Its normalization.
        x: Normalized support x.
        y: Normalized support y.
        path: What adapts, before the step and after it. At the start, the start alone.
        queries: Batches of x in raw units.

    """
    *before, adapted = path
    weights = folded_weights(learner, adapted)
    values = {name: weight.detach().numpy() for name, weight in weights.items()}
    for each in before:
        values["loss before the step"] = learner.support_loss(each, x, y).detach().numpy()
    values["loss"] = learner.support_loss(adapted, x, y).detach().numpy()
    values["loss after the step"] = values["loss"]
    one_by_one = vmap(lambda x, y: learner.support_loss(adapted, x[None], y[None]))
    values[LOSSES] = one_by_one(x, y).detach().numpy()
    values |= _slices(learner, flatten(learner, adapted).numpy())
    with torch.no_grad():
        y_hat = learner(adapted, torch.from_numpy(normalization.normalize_x(np.concatenate(queries)))).numpy()
    values["y"] = normalization.raw_y(y_hat)
    return values


def _many(learner: Learner, frozen: Frozen) -> ManySamples | None:
    """The graphs for many samples, if there are any."""
    if frozen.sums is None or frozen.solve is None:
        return None
    sums = make_session(frozen.sums, "sums.onnx", _CPU, prepack=False)
    solve = make_session(frozen.solve, "solve.onnx", _CPU, optimize=False)
    return ManySamples(lambda: sums, lambda: solve, math.prod(learner.outputs))


def _nan_last(error: float) -> float:
    """The key by which NaN is the largest error."""
    return math.inf if math.isnan(error) else error


def _slices(learner: Learner, v: NDArray) -> dict[str, NDArray]:
    """Cut a row v `(1, K)` into its tensors, named after the weights that they make."""
    sizes = [tensor.numel() for tensor in (learner.start()[name] for name in learner.adapted_names)]
    parts = np.split(v, np.cumsum(sizes)[:-1], axis=1)
    return {f"v of {folded_name(name)}": part for name, part in zip(learner.adapted_names, parts, strict=True)}
