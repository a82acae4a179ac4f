"""A torch learner as an `Adapt` function: the numpy interface that families and scores use."""

import torch

from msr_runtime.meta.evaluation.calibration import AdaptSurely, PredictSurely
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.recursive import Recursive
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.normalization import Normalization
from msr_runtime.task import Adapt, Array, Predict


def torch_adapt(learner: Learner, normalization: Normalization) -> Adapt:
    """Return the learner's inner loop in torch as a function `adapt(support_x, support_y) -> predict`.

    Both functions take and return numpy arrays in raw units. They are for evaluation; on the robot, an exported bundle
    does the same without torch.

    Args:
        learner: The learner, on the CPU.
        normalization: Center and scale with which the learner was trained.

    Example:
        >>> import numpy as np
        >>> from msr_runtime.meta import LEARNERS, LearnerConfig, torch_adapt
        >>> from msr_runtime.normalization import Normalization
        >>> unit = {"input_center": [0.0], "input_scale": [1.0], "output_center": [0.0], "output_scale": [1.0]}
        >>> learner = LEARNERS["msr"](LearnerConfig(width=8), (1,), (1,), "mse")  # or load_checkpoint(...).learner
        >>> adapt = torch_adapt(learner, Normalization.model_validate(unit))
        >>> x = np.linspace(-1, 1, 10, dtype=np.float32)[:, None]
        >>> adapt(x, np.sin(x))(x).shape
        (10, 1)

    """

    def adapt(support_x: Array, support_y: Array) -> Predict:
        with torch.no_grad():
            x, y = map(torch.from_numpy, normalization.normalize(support_x, support_y))
            adapted = learner.adapt(x, y)
        return _predictor(learner, normalization, adapted)

    return adapt


def torch_unadapted(learner: Learner, normalization: Normalization) -> Adapt:
    """Return a function like that of `torch_adapt` which ignores the support set: the network before it adapts."""
    predict = _predictor(learner, normalization, learner.start())
    return lambda *_: predict


def torch_adapt_surely(learner: Learner, normalization: Normalization) -> AdaptSurely | None:
    """Return a function like that of `torch_adapt` whose predictions come with standard deviations, in raw units.

    None if the learner's rule does not say how sure it is.
    """
    rule = learner.rule
    if not isinstance(rule, Recursive):
        return None
    start, scale = learner.start(), torch.tensor(normalization.output_scale, dtype=torch.float32)

    def adapt(support_x: Array, support_y: Array) -> PredictSurely:
        with torch.no_grad():
            x, y = map(torch.from_numpy, normalization.normalize(support_x, support_y))
            belief = rule.believe(learner, learner.loss, start, x, y)
        plain = _predictor(learner, normalization, rule.tensors(start, belief.mean))

        def predict(x: Array) -> tuple[Array, Array]:
            with torch.no_grad():
                normalized = torch.from_numpy(normalization.normalize_x(x))
                _, covariances, noise = rule.predict(learner, start, belief, normalized)
                variances = covariances.diagonal(dim1=1, dim2=2).clamp(min=0) + noise
                deviations = variances.sqrt().reshape(len(x), *learner.outputs) * scale
            return plain(x), deviations.numpy()

        return predict

    return adapt


def _predictor(learner: Learner, normalization: Normalization, adapted: Tensors) -> Predict:
    scale = torch.tensor(normalization.output_scale, dtype=torch.float32)
    center = torch.tensor(normalization.output_center, dtype=torch.float32)

    def predict(x: Array) -> Array:
        with torch.no_grad():
            return (learner(adapted, torch.from_numpy(normalization.normalize_x(x))) * scale + center).numpy()

    return predict
