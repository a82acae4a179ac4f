"""The proof that the graphs of the rule `recursive` compute what torch computes, over hundreds of updates in a row.

    torch          sample -> rule.follow     -> belief, v -> predictions, deviations
    ONNX Runtime   sample -> update.onnx     -> rows, v   -> predict.onnx, deviation.onnx

The graphs run in the sessions and with the ring of rows that the robot uses. The stream is longer than the ring, so old
rows are dropped, and time passes between some of its samples.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from msr_export.folding import folded_weights
from msr_export.freeze import Frozen
from msr_export.recursion import RecursiveGraphs
from msr_runtime.bundle.manifest import Parity
from msr_runtime.bundle.stream import Stream
from msr_runtime.errors import ParityError
from msr_runtime.inference.belief import Belief
from msr_runtime.inference.deviation import Deviations
from msr_runtime.inference.onnx_network import OnnxDeviation, OnnxNetwork, OnnxUpdate
from msr_runtime.inference.predictor import Predictors
from msr_runtime.inference.session import make_session
from msr_runtime.inference.session_spec import read_spec
from msr_runtime.inference.state import State
from msr_runtime.inference.updater import Replayed, Updater
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array

UPDATES = 200
"""Updates in a row that are compared."""
TOLERANCE = 1e-5
"""The largest relative error allowed."""
_TINY = 1e-30
"""What stands for the size of zeros."""
_CPU = ("CPUExecutionProvider",)


class _Replay(NamedTuple):
    """What the graphs made of a stream."""

    stream: Stream
    """The same samples, with what the graphs computed."""
    weights: dict[str, Array]
    """The folded weights at the end."""
    loss: float
    """The loss of the stream's samples with these weights."""
    y: NDArray
    """The predictions of the queries, by predict.onnx."""


def check_recursion(
    learner: Learner, normalization: Normalization, frozen: Frozen, stream: Stream, *, tolerance: float = TOLERANCE
) -> Parity:
    """Compare the graphs with torch over a stream.

    Args:
        learner: The learner, as in `export_bundle`, with the rule `recursive`.
        normalization: The normalization under which it was trained.
        frozen: The graphs.
        stream: What torch computed, by `draw_streams`.
        tolerance: The largest relative error allowed, where torch's own float32 is no worse (see `Stream.allowed`).

    Raises:
        ParityError: An output misses the tolerance. The message names it and its error.

    """
    seen = _replay(frozen, stream)
    errors = stream.errors(normalization, seen.stream) | _others(learner, normalization, seen, stream)
    allowed = stream.allowed(tolerance)
    for name, error in errors.items():
        if not error <= allowed:
            raise ParityError(
                f"ONNX and torch disagree on the {name}, of {len(stream.x)} updates: the relative error is "
                f"{error:.1e}, at most {allowed:.0e} is wanted; either the export of a layer or its gradient is "
                "wrong, or float32 is too coarse for its scales: check the scale of the inputs, and train with more "
                "noise (damping)"
            )
    return Parity(
        max_relative_error=max(errors.values()),
        tolerance=tolerance,
        shots=(len(stream.x),),
        batches=(len(stream.query_x),),
        steps=(1,),
    )


def adapt_by_samples(frozen: Frozen, x: Array, y: NDArray) -> dict[str, Array]:
    """Return v and the weights after the samples of a support set, as the robot takes them."""
    assert frozen.recursion is not None
    replayed = _updates(frozen, frozen.recursion, x, y, np.full(len(x), frozen.recursion.keep))
    return {name: tensor.copy() for name, tensor in replayed.run.tensors.items()}


def _updates(frozen: Frozen, graphs: RecursiveGraphs, x: Array, y: NDArray, keep: NDArray) -> Replayed:
    """Run update.onnx on samples in a row, from v0.

    Raises:
        ParityError: A number is not finite.

    """
    start = State({"v": frozen.v0, **frozen.weights})
    prior = Belief.prior(graphs.memory, graphs.outputs, frozen.v0.size)
    updater = Updater(OnnxUpdate(make_session(graphs.update, "update.onnx", _CPU)), start, graphs.relinearize)
    replayed = updater.replay(start.block, prior, x, y, keep)
    if not np.isfinite(replayed.nis).all():
        raise ParityError(
            "an update is not finite in ONNX Runtime, but it is in torch; most likely float32 is too coarse for the "
            "network's scales: check the scale of the inputs, and train with more noise (damping)"
        )
    return replayed


def _replay(frozen: Frozen, stream: Stream) -> _Replay:
    graphs, start = frozen.recursion, State({"v": frozen.v0, **frozen.weights})
    assert graphs is not None
    replayed = _updates(frozen, graphs, stream.x, stream.y, stream.keep)
    predict = make_session(frozen.predict, "predict.onnx", _CPU)
    deviation = OnnxDeviation(make_session(graphs.deviation, "deviation.onnx", _CPU))
    specs = read_spec(predict, "x", ()), read_spec(predict, "y", (), output=True)
    network = Predictors(OnnxNetwork(predict), *specs, start).make(replayed.run.block, belief=replayed.run.belief)
    deviations = Deviations(deviation, *specs, start)
    y, epistemic, total = deviations(stream.query_x, network)
    weights = {name: network.tensors[name].copy() for name in frozen.weights}
    judge = make_session(frozen.loss, "loss.onnx", _CPU)
    given = {part.name for part in judge.get_inputs()}
    feed = {"support_x": stream.x, "support_y": stream.y}
    feed |= {name: weight for name, weight in weights.items() if name in given}
    (loss,) = judge.run(["loss"], feed)
    _, innovation, variance, nis = replayed
    found = stream._replace(innovation=innovation, variance=variance, nis=nis, v=network.tensors["v"].copy())
    found = found._replace(query_y=y, epistemic=epistemic, total=total)
    return _Replay(found, weights, float(np.asarray(loss)), network(stream.query_x))


def _others(learner: Learner, normalization: Normalization, seen: _Replay, stream: Stream) -> dict[str, float]:
    """The errors of what is no part of a stream: the weights, the loss and the predictions of predict.onnx."""
    start, errors = learner.start(), {}
    parts = torch.from_numpy(stream.v).split([start[name].numel() for name in learner.adapted_names], dim=1)
    adapted = {name: part.reshape(start[name].shape) for name, part in zip(learner.adapted_names, parts, strict=True)}
    x, y = map(torch.from_numpy, normalization.normalize(stream.x, stream.y))
    with torch.no_grad():
        for name, weight in folded_weights(learner, adapted).items():
            size = max(float(weight.abs().max()), _TINY)
            errors[f"weight '{name}'"] = float(np.abs(seen.weights[name] - weight.numpy()).max()) / size
        wanted = learner.support_loss(adapted, x, y).item()
    size, apart = normalization.compare_y(seen.y, stream.query_y)
    errors["loss"] = abs(seen.loss - wanted) / abs(wanted)
    return errors | {"predictions of predict.onnx": math.inf if math.isnan(apart) else apart / (size or 1.0)}
