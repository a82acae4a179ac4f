"""A run begins with the weights of a trained one, or says why it cannot."""

from pathlib import Path
from typing import Any

import pytest
import torch

from msr_runtime.errors import CheckpointError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.training.checkpoint import load_checkpoint
from msr_runtime.task import Field

NEWTON = LearnerConfig(depth=0, filters=4, rule="gauss-newton", inner_steps=1)
FILTER = LearnerConfig(depth=0, filters=4, rule="recursive", gate=None)


@pytest.fixture(scope="module")
def trained(training, tmp_path_factory) -> Path:
    """A run of Gauss-Newton steps."""
    run = tmp_path_factory.mktemp("starting") / "newton"
    training.trainer(run, learner=NEWTON, steps=3).train()
    return run


def test_a_filter_begins_as_the_gauss_newton_steps_ended(training, trained: Path, tmp_path: Path) -> None:
    """With one linear layer the filter's estimate, sample by sample, is the step with all samples at once."""
    trainer = training.trainer(tmp_path / "run", learner=FILTER, start=str(trained))
    before = load_checkpoint(trained)
    assert trainer.normalization == before.normalization
    for name, tensor in before.learner.network.state_dict().items():
        assert torch.equal(trainer.learner.network.state_dict()[name], tensor), name
    x, y = torch.randn(5, 2), torch.randn(5, 2)  # as many samples as the steps were trained with
    seen, wanted = trainer.learner.adapt(x, y), before.learner.adapt(x, y)
    for name, tensor in wanted.items():
        torch.testing.assert_close(seen[name], tensor, rtol=1e-4, atol=1e-5)
    trainer.train()
    assert load_checkpoint(tmp_path / "run").config.settings.start == str(trained)


def test_a_filter_takes_the_numbers_of_a_filter(training, tmp_path: Path) -> None:
    """And keeps where its time constant starts, if the other one has none."""
    training.trainer(tmp_path / "first", learner=FILTER, steps=2, fewest_shots=4).train()
    there = load_checkpoint(tmp_path / "first").learner.rule
    assert there is not None
    forgetful = FILTER.model_copy(update={"time_constant": 30.0})
    rule = training.trainer(tmp_path / "next", learner=forgetful, start=str(tmp_path / "first")).learner.rule
    for name, parameter in there.named_parameters():
        assert torch.equal(rule.get_parameter(name), parameter), name
    assert rule.keep().item() == pytest.approx(0.967, abs=1e-3)


def test_a_resumed_run_needs_its_start_no_more(training, trained: Path, tmp_path: Path) -> None:
    """All that it took is in its own checkpoint."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "best.safetensors").write_bytes((trained / "best.safetensors").read_bytes())
    changes: dict[str, Any] = {"learner": NEWTON, "start": str(copy), "steps": 4}
    trainer = training.trainer(tmp_path / "run", **changes)
    trainer._outer_step, step = (lambda: (setattr(trainer, "_stop", True), step())[1]), trainer._outer_step
    assert trainer.train().step == 1
    (copy / "best.safetensors").unlink()
    assert training.trainer(tmp_path / "run", resume=True, **changes).train().finished


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"filters": 3}, r"its tensor 'layers.0.parametrizations.weight.0.U' has shape \(4, 4\), but here .* \(4, 3\)"),
        ({"depth": 1, "width": 3}, "its tensor 'layers.0.*--learner.width"),
    ],
    ids=["filters", "depth"],
)
def test_another_network_is_refused(training, trained, tmp_path, changes: dict[str, int], says: str) -> None:
    """By the name of the first tensor that differs, before anything is simulated."""
    learner = FILTER.model_copy(update=changes)
    with pytest.raises(CheckpointError, match=says):
        training.trainer(tmp_path / "run", learner=learner, start=str(trained))


def test_other_fields_and_no_run_are_refused(training, trained: Path, tmp_path: Path) -> None:
    """By name."""
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        training.trainer(tmp_path / "run", learner=FILTER, start=str(tmp_path / "nothing"))
    family = training.Plane()
    family.inputs = (Field(name="pull", shape=(2,), unit="N", low=-9.0, high=9.0),)
    with pytest.raises(CheckpointError, match=r"trained with other inputs \(push\) than family 'plane' has \(pull\)"):
        training.trainer(tmp_path / "run", family, learner=FILTER, start=str(trained))
