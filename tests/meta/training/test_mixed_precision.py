"""Products in bfloat16: near to float32, with gradients in float32, and refused where they would be wrong."""

from pathlib import Path

import pytest
import torch

from msr_envs.images import Images
from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.outer import OuterLoss, outer_gradient, traced_gradient
from msr_runtime.meta.training.preparation import prepare
from msr_runtime.meta.training.trainer import train

IMAGES = LearnerConfig(network="conv", width=8, depth=2, inner_steps=2, rule="gradient")


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("maml", IMAGES),
        ("msr", IMAGES.model_copy(update={"form": "kronecker"})),
        ("protonets", IMAGES.model_copy(update={"head": "map", "temperature": 0.1})),
    ],
)
def test_the_gradient_is_near_that_of_float32(method: str, config: LearnerConfig) -> None:
    """Loss and gradients are float32 and nearly those of float32, but not equal; traced, they are the same numbers."""
    torch.manual_seed(0)
    learner = LEARNERS[method](config, (1, 8, 8), (3,), "cross_entropy")
    y = torch.arange(6).remainder(3).expand(4, 6).contiguous()
    batch = [torch.rand(4, 6, 1, 8, 8), y, torch.rand(4, 6, 1, 8, 8), y]
    exact, exact_gradients = outer_gradient(OuterLoss(learner).train())(batch)
    rounding = OuterLoss(learner, precision="bfloat16").train()
    value, gradients = outer_gradient(rounding)(batch)
    again, traced = traced_gradient(rounding, batch)(batch)
    assert value.dtype == torch.float32
    assert 0 < abs(value - exact) < 0.01 * exact
    assert torch.equal(again, value)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert torch.equal(traced[name], gradient)
    flat, wanted = (torch.cat([each[name].flatten() for name in gradients]) for each in (gradients, exact_gradients))
    assert torch.nn.functional.cosine_similarity(flat, wanted, 0) > 0.99
    evaluated = rounding.eval()(*batch)
    assert torch.equal(evaluated, OuterLoss(learner).eval()(*batch))  # as on the robot


def test_it_trains(image_file: Path, tmp_path: Path) -> None:
    """A run in bfloat16 ends near one in float32, and not at the same numbers."""
    learner = LearnerConfig(network="conv", width=8, depth=2, head="map", temperature=0.1)
    settings = TrainSettings(
        steps=12, tasks_per_step=2, shots=1, queries=2, validation_tasks=2, validation_every=6, precision="bfloat16"
    )
    best = {}
    for precision in ("float32", "bfloat16"):
        chosen = settings.model_copy(update={"precision": precision})
        family = Images(image_file, ways=2)
        config = TrainConfig.of(family, "protonets", learner, chosen)
        best[precision] = train(family, config, tmp_path / precision, progress=False).best
    assert best["bfloat16"] == pytest.approx(best["float32"], rel=0.05)
    assert best["bfloat16"] != best["float32"]


def test_linear_systems_and_recomputed_steps_are_refused(training) -> None:
    """Before anything is simulated, with the option that mends it."""
    family, rounded = training.Plane(), TrainSettings(precision="bfloat16")
    with pytest.raises(TrainingError, match=r"precision is 'bfloat16'.*GaussNewton solves linear.*--learner.rule grad"):
        prepare(family, TrainConfig.of(family, "msr", LearnerConfig(), rounded), progress=False)
    both, learner = rounded.model_copy(update={"recompute": True}), LearnerConfig(rule="gradient")
    with pytest.raises(TrainingError, match=r"recompute is set.*--settings.no-recompute"):
        prepare(family, TrainConfig.of(family, "msr", learner, both), progress=False)
