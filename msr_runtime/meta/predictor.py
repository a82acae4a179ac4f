"""A learner in torch behind the numpy interface that families and scores use."""

import torch

from msr_runtime.meta.inner import Tensors
from msr_runtime.meta.learner import Learner
from msr_runtime.meta.normalization import Normalization
from msr_runtime.task import Adapt, Array, Predict


def torch_adapt(learner: Learner, normalization: Normalization) -> Adapt:
    """Return `adapt(support_x, support_y) -> predict`: the learner's inner loop in torch, raw units both ways."""

    def adapt(support_x: Array, support_y: Array) -> Predict:
        with torch.no_grad():
            x, y = map(torch.from_numpy, normalization.normalize(support_x, support_y))
            adapted = learner.adapt(x, y)
        return _predictor(learner, normalization, adapted)

    return adapt


def torch_unadapted(learner: Learner, normalization: Normalization) -> Adapt:
    """Return the same interface for the meta-learned start: the support is ignored."""
    predict = _predictor(learner, normalization, learner.start())
    return lambda *_: predict


def _predictor(learner: Learner, normalization: Normalization, adapted: Tensors) -> Predict:
    scale = torch.tensor(normalization.output_scale, dtype=torch.float32)
    center = torch.tensor(normalization.output_center, dtype=torch.float32)

    def predict(x: Array) -> Array:
        with torch.no_grad():
            return (learner(adapted, torch.from_numpy(normalization.normalize_x(x))) * scale + center).numpy()

    return predict
