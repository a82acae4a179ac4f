"""Prototypes far from zero: what float32 computes of their distances is what float64 does, once they are centered."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from msr_export import check_parity, freeze
from msr_export.centering import centered
from msr_runtime.errors import ParityError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.normalization import Normalization

SHAPE, CLASSES = (1, 10, 10), 3
UNIT = Normalization(
    input_center=(((0.5,),),), input_scale=(((0.3,),),), output_center=(0.0,) * CLASSES, output_scale=(1.0,) * CLASSES
)
IMAGES = np.random.default_rng(0).random((300, *SHAPE), dtype=np.float32)
METHODS = [("orbit-prototypes", {"grid_group": "D2"}), ("protonets", {"head": "map", "temperature": 0.1})]


def _far(method: str, changes: dict[str, Any], away: float) -> Learner:
    """A learner whose embeddings are all about `away` times as large as what tells two images apart."""
    torch.manual_seed(0)
    config = LearnerConfig.model_validate({"network": "conv-grid", "width": 8, "depth": 2} | changes)
    learner = LEARNERS[method](config, SHAPE, (CLASSES,), "cross_entropy").eval()
    with torch.no_grad():
        for name, parameter in learner.network.named_parameters():
            if name.startswith("embedding.layers.1") and "bias" in name:
                parameter.add_(away)
    return learner


@pytest.mark.parametrize(("method", "changes"), METHODS)
def test_scores_are_the_same_and_more_exact(method: str, changes: dict[str, Any]) -> None:
    learner = _far(method, changes, 100.0)
    moved = centered(learner, UNIT, IMAGES)
    x, _ = UNIT.normalize(IMAGES[:20], np.arange(20))
    x, y = torch.from_numpy(x), torch.arange(20) % CLASSES
    exact = copy.deepcopy(learner).double()
    with torch.no_grad():
        wanted = exact(exact.adapt(x.double(), y), x.double())
        errors = [float((each(each.adapt(x, y), x) - wanted).abs().max()) for each in (learner, moved)]
    assert errors[1] < 1e-5 * float(wanted.abs().max())
    assert errors[0] > 20 * errors[1]


@pytest.mark.parametrize(("method", "changes"), METHODS)
def test_such_a_learner_is_exported(method: str, changes: dict[str, Any]) -> None:
    """Without it, ONNX Runtime and torch round so differently that the export would be refused."""
    learner = _far(method, changes, 300.0)
    with pytest.raises(ParityError):
        check_parity(learner, UNIT, freeze(learner, UNIT), IMAGES, seed=1)
    moved = centered(learner, UNIT, IMAGES)
    assert check_parity(moved, UNIT, freeze(moved, UNIT), IMAGES, seed=1).max_relative_error <= 1e-5


def test_others_stay_as_they_are() -> None:
    anil = LEARNERS["anil"](LearnerConfig(network="conv-grid", width=4, depth=1), SHAPE, (CLASSES,), "cross_entropy")
    assert centered(anil, UNIT, IMAGES) is anil


def test_labels_that_fit_badly_are_no_divergence() -> None:
    """Labels that are drawn cost a sharp learner much after its one closed step: it is compared all the same."""
    learner = _far("orbit-prototypes", {"grid_group": "D2"}, 0.0)
    with torch.no_grad():
        learner.network.get_parameter("sharpness").fill_(6.0)
    assert check_parity(learner, UNIT, freeze(learner, UNIT), IMAGES, seed=1).max_relative_error <= 1e-5
