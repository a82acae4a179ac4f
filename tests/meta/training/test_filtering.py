"""A filter is trained through its recursion, on the likelihood of the queries."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.meta.training.checkpoint import LAST, load_checkpoint
from msr_runtime.meta.training.outer import OuterLoss, outer_gradient, traced_gradient

LINEAR = LearnerConfig(depth=0, filters=4, rule="recursive")


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("msr", {"time_constant": 5.0}),
        ("anil", {"relinearize": 2, "memory": 2}),
        ("cavia", {"objective": "error", "gate": None}),
    ],
)
def test_the_graph_gives_the_eager_numbers_bit_for_bit(method: str, changes: dict[str, Any]) -> None:
    """Loss and every gradient, for moved parameters and for a batch that was not traced."""
    torch.manual_seed(0)
    config = LearnerConfig.model_validate({"width": 6, "depth": 1, "filters": 4, "context": 3, "rule": "recursive"})
    loss = OuterLoss(LEARNERS[method](config.model_copy(update=changes), (3,), (2,), "mse"))

    def batch() -> list[torch.Tensor]:
        return [torch.randn(2, samples, size) for samples in (2, 2) for size in (3, 2)]

    eager, traced = outer_gradient(loss), traced_gradient(loss, batch())
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.mul_(0.9)
    other = batch()
    (value, gradients), (again, of_graph) = eager(other), traced(other)
    assert torch.equal(value, again)
    assert gradients.keys() == of_graph.keys()
    numbers = {name for name, _ in loss.named_parameters() if ".rule." in name}
    assert numbers <= gradients.keys() or changes.get("objective") == "error"
    for name, gradient in gradients.items():
        assert torch.equal(gradient, of_graph[name]), name


def test_the_objective_is_the_likelihood_or_the_error() -> None:
    """The likelihood falls when the noise is told too small; the error of a linear layer hardly minds."""
    torch.manual_seed(0)
    losses = {}
    batch = [torch.randn(3, samples, size) for samples in (4, 5) for size in (3, 2)]
    for objective in ("likelihood", "error"):
        learner = LEARNERS["msr"](LINEAR.model_copy(update={"objective": objective}), (3,), (2,), "mse")
        adapted = [learner.adapt(x, y) for x, y in zip(*batch[:2], strict=True)]
        error = [learner.support_loss(each, *queries) for each, *queries in zip(adapted, *batch[2:], strict=True)]
        losses[objective] = OuterLoss(learner)(*batch)
        if objective == "error":
            torch.testing.assert_close(losses[objective], torch.stack(error))
    assert (losses["likelihood"] - losses["error"]).abs().min() > 0.01


def test_training_makes_the_intervals_right(training, tmp_path: Path) -> None:
    """After every number of samples, on new tasks: about 90 % of the queries lie in the intervals that say so, and a
    squared error is about its variance. The samples have noise, of which the filter learns how much it is.
    """
    changes: dict[str, Any] = {
        "steps": 250,
        "noise": 0.2,
        "fewest_shots": 1,
        "outer_rate": 0.03,
        "validation_every": 250,
    }
    trainer = training.trainer(tmp_path / "run", learner=LINEAR, **changes)
    trainer.train()
    learner, rng = trainer.learner, np.random.default_rng(3)
    assert learner.rule.noise().tolist() == pytest.approx([0.04, 0.04], rel=0.6)
    batch = training.Plane().sample(rng, 40, 20, 20, "test")
    x, y = map(torch.from_numpy, trainer.normalization.normalize(batch.support_x, batch.support_y))
    queries = list(map(torch.from_numpy, trainer.normalization.normalize(batch.query_x, batch.query_y)))
    y, queries[1] = (part + 0.2 * torch.from_numpy(rng.normal(size=part.shape)).float() for part in (y, queries[1]))

    def squared(x: torch.Tensor, y: torch.Tensor, query_x: torch.Tensor, query_y: torch.Tensor) -> torch.Tensor:
        belief = learner.rule.believe(learner, "mse", learner.start(), x, y)
        outputs, covariances, noise = learner.rule.predict(learner, learner.start(), belief, query_x)
        variances = covariances.diagonal(dim1=-2, dim2=-1) + noise
        return (query_y - outputs).square() / variances

    with torch.no_grad():
        for count in (1, 3, 5):
            ratios = torch.func.vmap(squared)(x[:, :count], y[:, :count], *queries)
            assert 0.8 < (ratios < 1.645**2).float().mean() < 0.98, count
            assert 0.5 < ratios.mean() < 1.8, count


def test_validation_counts_every_number_of_samples(training, tmp_path: Path) -> None:
    """The loss by which the best checkpoint is chosen is the mean over the numbers that training draws."""
    trainer = training.trainer(tmp_path / "run", learner=LINEAR, steps=1, fewest_shots=3)
    trainer.train()
    x, y, *queries = trainer.validation
    loss = trainer.outer_loss.eval()
    with torch.no_grad():
        losses = [loss(x[:, -n:], y[:, -n:], *queries).mean() for n in (3, 4, 5)]
    assert trainer.best == pytest.approx(float(sum(losses) / 3), rel=1e-6)


def test_a_run_with_switches_resumes_bit_for_bit(training, tmp_path: Path) -> None:
    """The switches come from the step's number alone."""
    learner = LINEAR.model_copy(update={"time_constant": 20.0})
    changes: dict[str, Any] = {
        "learner": learner,
        "steps": 6,
        "switches": 0.5,
        "fewest_shots": 2,
        "validation_every": 3,
    }
    assert training.trainer(tmp_path / "whole", **changes).train().finished
    part = training.trainer(tmp_path / "part", **changes)
    part._outer_step, step = (lambda: (setattr(part, "_stop", part.step == 3), step())[1]), part._outer_step
    assert part.train().step == 4
    assert training.trainer(tmp_path / "part", resume=True, **changes).train().finished
    digests = [load_checkpoint(tmp_path / name / LAST).digest for name in ("whole", "part")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("changes", [{"multi_step": 3}, {"recompute": True}], ids=str)
def test_inner_steps_that_it_does_not_take_are_refused(training, tmp_path, changes: dict[str, Any]) -> None:
    """It takes samples, not steps."""
    with pytest.raises(TrainingError, match="takes no inner steps in training"):
        training.trainer(tmp_path / "run", learner=LINEAR, **changes)


def test_methods_and_losses_without_a_prior_are_refused() -> None:
    """Before anything is simulated."""
    with pytest.raises(TrainingError, match="'recursive' needs a learned prior, but method 'fine-tuning'"):
        LEARNERS["fine-tuning"](LINEAR, (3,), (2,), "mse")
    with pytest.raises(TrainingError, match="filters numbers, but the loss is 'cross_entropy'"):
        LEARNERS["msr"](LINEAR, (3,), (2,), "cross_entropy")
