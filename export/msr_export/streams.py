"""Streams of samples that torch's rule `recursive` learned from: what the graphs are compared with."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msr_export.freeze import flatten
from msr_runtime.bundle.stream import LARGEST_ROUNDING, Stream
from msr_runtime.errors import ExportError
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.belief import Belief
from msr_runtime.meta.rules.recursive import Observation, Recursive, Sample
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array

_GAPS = 0.05
"""Share of the samples before which some time has passed."""
_LEFT = 0.7
"""What such a time leaves of the mean."""
_QUERIES = 16
"""Samples that are predicted, with deviations, at the end of a stream."""


def draw_streams(
    learner: Learner,
    normalization: Normalization,
    rule: Recursive,
    inputs: Array,
    seed: int,
    lengths: Sequence[int],
) -> list[Stream]:
    """Draw a task from the rule's own prior, and let torch learn it sample by sample.

    Now and then some time passes, so that the mean relaxes.

    Args:
        learner: The learner, in float32.
        normalization: Its normalization.
        rule: Its rule.
        inputs: Samples of x in raw units, `(samples, ...)`, from which those of the stream are drawn.
        seed: The seed of the draws.
        lengths: The numbers of samples, rising. Each stream begins as the longer ones do.

    Returns:
        A stream of each length, computed in float64, with what float32 misses.

    Raises:
        ExportError: float32 misses too much.

    """
    rng, samples = np.random.default_rng(seed), lengths[-1]
    x, query_x = (rng.choice(inputs, count) for count in (samples, _QUERIES))
    with torch.no_grad():
        usual, start = rule.keep(), learner.start()
        m = torch.from_numpy(rng.standard_normal(learner.adapted_size()).astype(np.float32))
        clean = learner(rule.tensors(start, m), torch.from_numpy(normalization.normalize_x(x))).numpy()
        deviations = rule.noise().sqrt().numpy().reshape(clean.shape[1:])
    y = normalization.raw_y(clean + rng.standard_normal(clean.shape) * deviations)
    keep = np.where(rng.random(samples) < _GAPS, _LEFT, 1.0 if usual is None else usual.item()).astype(np.float32)
    learned = _learn(learner, normalization, x, y, keep, query_x, lengths)
    try:
        exact = _learn(copy.deepcopy(learner).double(), normalization, x, y, keep, query_x, lengths)
    except RuntimeError:  # a network of one's own may hold float32 numbers that do not mix with others: nobody knows
        return learned
    streams = []
    for rounded, stream in zip(learned, exact, strict=True):
        rounding = max(stream.errors(normalization, rounded).values())
        if not rounding <= LARGEST_ROUNDING:
            raise ExportError(
                f"after {len(stream.x)} updates, float32 misses the filter's own numbers by {rounding:.1e} of their "
                f"size, at most {LARGEST_ROUNDING:.0e} is wanted; most likely the learned noise is far too small for "
                "the scales of v: train again, with more noise (learner.damping) or with --settings.noise"
            )
        streams.append(stream._replace(rounding=rounding))
    return streams


def _learn(
    learner: Learner,
    normalization: Normalization,
    x: Array,
    y: NDArray,
    keep: Array,
    query_x: Array,
    lengths: Sequence[int],
) -> list[Stream]:
    """Let torch learn the samples, in the learner's own precision."""
    rule = learner.rule
    assert isinstance(rule, Recursive)
    start = {name: tensor.detach() for name, tensor in learner.start().items()}
    like, scale = next(iter(start.values())), np.asarray(normalization.output_scale, np.float32)
    normal_x, normal_y = (torch.from_numpy(each).to(like.dtype) for each in normalization.normalize(x, y))
    queries = torch.from_numpy(normalization.normalize_x(query_x)).to(like.dtype)
    seen, streams = list[Observation](), []
    with torch.no_grad():
        keeps = torch.from_numpy(keep).to(like.dtype)
        samples = map(Sample, normal_x, normal_y, keeps)
        for belief, observed in rule.follow(learner.inner_forward, start, samples):
            seen.append(observed)
            if (count := len(seen)) not in lengths:
                continue
            shape = y[:count].shape
            predicted, epistemic, total = _predicted(learner, rule, start, belief, queries)
            at_queries = (_QUERIES, *shape[1:])
            streams.append(
                Stream(
                    x=x[:count],
                    y=y[:count],
                    keep=keep[:count],
                    innovation=_stacked([each.innovation for each in seen]).reshape(shape) * scale,
                    variance=_stacked([each.variance for each in seen]).reshape(shape) * scale**2,
                    nis=_stacked([each.nis for each in seen]),
                    v=_float32(flatten(learner, rule.tensors(start, belief.mean))),
                    query_x=query_x,
                    query_y=normalization.raw_y(predicted.numpy()),
                    epistemic=_float32(epistemic.sqrt()).reshape(at_queries) * scale,
                    total=_float32(total.sqrt()).reshape(at_queries) * scale,
                    rounding=0.0,
                )
            )
    return streams


def _predicted(
    learner: Learner, rule: Recursive, start: dict[str, Tensor], belief: Belief, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The predictions `(samples, *y)`, and their variances `(samples, J)` because of v, and with the noise."""
    _, covariances, noise = rule.predict(learner.inner_forward, start, belief, x)
    predicted = learner(rule.tensors(start, belief.mean), x)
    epistemic = covariances.diagonal(dim1=1, dim2=2).clamp(min=0)
    return predicted, epistemic, epistemic + noise


def _stacked(parts: list[Tensor]) -> Array:
    return _float32(torch.stack(parts))


def _float32(tensor: Tensor) -> Array:
    return tensor.numpy().astype(np.float32)
