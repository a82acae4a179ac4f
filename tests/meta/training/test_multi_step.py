"""Training on the losses after every inner step, with weights that move to the last one."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.training.checkpoint import LAST, load_checkpoint
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.preparation import prepare

ANNEALED: dict[str, Any] = {"steps": 24, "validation_every": 12, "multi_step": 16}


def losses(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def last(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(run / LAST)
    return checkpoint.learner.state_dict() | checkpoint.optimizer


def assert_same(run: Path, other: Path) -> None:
    assert losses(run) == losses(other)
    tensors, others = last(run), last(other)
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


@pytest.fixture(scope="module")
def whole(training, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    assert training.trainer(run, **ANNEALED).train().finished
    return run


@pytest.mark.parametrize("at", [7, 16, 20])
def test_a_resumed_run_goes_on_with_the_weights_of_its_step(training, whole: Path, tmp_path, at: int) -> None:
    """It is interrupted while the weights move, at their end, or after it. It equals a run that never stopped."""

    class Interrupting(training.Plane):
        armed, calls = False, 0

        def augment(self, rng, x, y) -> Any:
            self.calls += self.armed
            if self.armed and self.calls == at:
                os.kill(os.getpid(), signal.SIGINT)
            return super().augment(rng, x, y)

    family = Interrupting()
    trainer = training.trainer(tmp_path, family, **ANNEALED)
    family.armed = True
    assert trainer.train().step == at
    family.armed = False
    assert training.trainer(tmp_path, family, resume=True, **ANNEALED).train().finished
    assert_same(tmp_path, whole)


def test_traced_it_trains_to_the_same_numbers(training, whole: Path, tmp_path, monkeypatch) -> None:
    """Both graphs are traced: the one with weights, and the one with the last loss only."""
    monkeypatch.setattr("msr_runtime.meta.training.trainer.TRACE_FROM", 1)
    training.trainer(tmp_path, **ANNEALED).train()
    assert_same(tmp_path, whole)


def test_it_is_another_run_than_one_on_the_last_loss(training, whole: Path, tmp_path) -> None:
    """The metrics differ from those of a run with `multi_step` 0."""
    training.trainer(tmp_path, **ANNEALED | {"multi_step": 0}).train()
    assert losses(tmp_path) != losses(whole)


def test_a_method_without_inner_steps_is_refused_before_anything_is_simulated(training, tmp_path) -> None:
    """The message names the method and the setting."""
    family = training.Plane()
    config = TrainConfig.of(family, "no-adaptation", LearnerConfig(), TrainSettings(multi_step=3))
    with pytest.raises(TrainingError, match=r"method 'no-adaptation' takes no inner steps in training.*multi_step"):
        prepare(family, config, progress=False)
    assert not any(tmp_path.iterdir())
