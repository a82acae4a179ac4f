"""Streams of samples that torch's rule `recursive` learned from: what the graphs are compared with."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from msr_export.freeze import flatten
from msr_runtime.bundle.stream import Stream
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.belief import Belief
from msr_runtime.meta.rules.recursive import Observation, Recursive
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
        A stream of each length.

    """
    rng, samples = np.random.default_rng(seed), lengths[-1]
    x, query_x = (rng.choice(inputs, count) for count in (samples, _QUERIES))
    normal_x, normal_queries = (torch.from_numpy(normalization.normalize_x(each)) for each in (x, query_x))
    start = {name: tensor.detach() for name, tensor in learner.start().items()}
    scale = np.asarray(normalization.output_scale, np.float32)
    with torch.no_grad():
        belief, noise, usual = rule.prior(start), rule.noise(), rule.keep()
        task = rule.tensors(start, torch.from_numpy(rng.standard_normal(belief.mean.shape).astype(np.float32)))
        clean = learner(task, normal_x)
        noisy = clean.numpy() + rng.standard_normal(clean.shape) * noise.sqrt().numpy().reshape(clean.shape[1:])
        y = normalization.raw_y(noisy)
        normal_y = torch.from_numpy(normalization.normalize_y(y))
        keep = np.where(rng.random(samples) < _GAPS, _LEFT, 1.0 if usual is None else usual.item()).astype(np.float32)
        seen, streams = list[Observation](), []
        for sample_x, sample_y, kept in zip(normal_x, normal_y, torch.from_numpy(keep), strict=True):
            belief = belief.relaxed(kept).latest((rule.memory - 1) * len(noise))
            seen.append(rule.observe(learner.inner_forward, start, belief, sample_x, sample_y))
            belief = belief.with_rows(seen[-1].mean, seen[-1].rows)
            if (count := len(seen)) not in lengths:
                continue
            shape = y[:count].shape
            predicted, epistemic = _predicted(learner, rule, start, belief, normal_queries)
            streams.append(
                Stream(
                    x=x[:count],
                    y=y[:count],
                    keep=keep[:count],
                    innovation=_stacked([each.innovation for each in seen]).reshape(shape) * scale,
                    variance=_stacked([each.variance for each in seen]).reshape(shape) * scale**2,
                    nis=_stacked([each.nis for each in seen]),
                    v=flatten(learner, rule.tensors(start, belief.mean)).numpy(),
                    query_x=query_x,
                    query_y=normalization.raw_y(predicted.numpy()),
                    epistemic=epistemic.sqrt().numpy().reshape(_QUERIES, *shape[1:]) * scale,
                    total=(epistemic + noise).sqrt().numpy().reshape(_QUERIES, *shape[1:]) * scale,
                )
            )
    return streams


def _predicted(
    learner: Learner, rule: Recursive, start: dict[str, Tensor], belief: Belief, x: Tensor
) -> tuple[Tensor, Tensor]:
    """The predictions `(samples, *y)`, and their variances `(samples, J)` because of v."""
    _, covariances = rule.predict(learner.inner_forward, start, belief, x)
    predicted = learner(rule.tensors(start, belief.mean), x)
    return predicted, covariances.diagonal(dim1=1, dim2=2).clamp(min=0)


def _stacked(parts: list[Tensor]) -> Array:
    return torch.stack(parts).numpy()
