"""The outer loop learns, repeats its numbers, resumes bit for bit, and gives up when it must."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from msr_envs.registry import load_family
from msr_runtime.errors import TrainingError
from msr_runtime.meta.evaluation.predictor import torch_adapt
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.rules.gradient import GradientSteps
from msr_runtime.meta.symmetry.measures import equivariance_error
from msr_runtime.meta.training.checkpoint import BEST, LAST, load_checkpoint


def _rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _tensors(path: Path) -> dict[str, Tensor]:
    checkpoint = load_checkpoint(path)
    return checkpoint.learner.state_dict() | checkpoint.optimizer


def _assert_same_run(run: Path, other: Path) -> None:
    assert _rows(run) == _rows(other)
    for name in (BEST, LAST):
        tensors, others = _tensors(run / name), _tensors(other / name)
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[key], others[key]) for key in tensors)
        assert load_checkpoint(run / name).digest == load_checkpoint(other / name).digest


def _disturbed(training, at: int, disturb: Callable[[Any, Any], Any]) -> Any:
    """A family that disturbs the samples of every outer step from number `at` on, as soon as `armed` is set."""

    class Disturbed(training.Plane):
        armed, calls = False, 0

        def augment(self, rng, x, y) -> Any:
            x, y = super().augment(rng, x, y)
            self.calls += self.armed
            return disturb(x, y) if self.calls >= at and self.armed else (x, y)

    return Disturbed()


def _interrupt(x: Any, y: Any) -> Any:
    os.kill(os.getpid(), signal.SIGINT)
    return x, y


def _spoil(x: Any, y: Any) -> Any:
    return x, np.full_like(y, np.nan)


@pytest.fixture(scope="module")
def whole(training, tmp_path_factory) -> Path:
    """A run of 40 outer steps without a disturbance."""
    run = tmp_path_factory.mktemp("whole")
    result = training.trainer(run).train()
    assert (result.run, result.step, result.finished) == (run, 40, True)
    return run


def test_the_loss_goes_down_and_the_best_checkpoint_is_kept(training, tmp_path) -> None:
    """The best checkpoint has the lowest validation loss, and the learner of that step."""
    result = training.trainer(tmp_path, steps=200, outer_rate=0.01).train()
    rows = [row for row in _rows(tmp_path) if "validation_loss" in row]
    assert [row["step"] for row in rows] == list(range(20, 201, 20))
    assert rows[-1]["validation_loss"] < 0.5 * rows[0]["validation_loss"]
    lowest = min(rows, key=lambda row: row["validation_loss"])
    best = load_checkpoint(tmp_path)
    assert (best.best, best.step) == (lowest["validation_loss"], lowest["step"])
    assert result.best == best.best
    assert best.optimizer == {}


def test_the_folder_of_a_run(whole: Path) -> None:
    """It holds the configuration, metrics, two checkpoints, TensorBoard events and the lock, and no temporary file."""
    names = sorted(path.name for path in whole.iterdir())
    events = [name for name in names if name.startswith("events.out.tfevents")]
    assert sorted({*names} - {*events}) == [BEST, "config.json", LAST, "lock", "metrics.jsonl"]
    assert b"validation_loss" in (whole / events[0]).read_bytes()
    assert [row["step"] for row in _rows(whole)] == [10, 20, 30, 40]


def test_the_same_seed_gives_the_same_numbers(training, whole: Path, tmp_path) -> None:
    """Every tensor and every row of the metrics are equal. Another seed gives other numbers."""
    training.trainer(tmp_path / "same").train()
    _assert_same_run(tmp_path / "same", whole)
    training.trainer(tmp_path / "other", seed=1).train()
    assert _rows(tmp_path / "other") != _rows(whole)


def test_a_traced_gradient_trains_to_the_same_numbers(training, whole: Path, tmp_path, monkeypatch) -> None:
    """Long runs trace their gradient. The numbers stay the same."""
    monkeypatch.setattr("msr_runtime.meta.training.trainer.TRACE_FROM", 1)
    training.trainer(tmp_path).train()
    _assert_same_run(tmp_path, whole)


def test_an_interrupted_run_resumes_bit_for_bit(training, whole: Path, tmp_path) -> None:
    """Ctrl-C in step 23 stops after that step. The resumed run equals one that never stopped."""
    family = _disturbed(training, 23, _interrupt)
    trainer = training.trainer(tmp_path, family)
    handler = signal.getsignal(signal.SIGINT)
    family.armed = True
    result = trainer.train()
    assert (result.step, result.finished) == (23, False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert training.trainer(tmp_path, resume=True).train().finished
    # the two families share a name, so even the configurations are equal
    _assert_same_run(tmp_path, whole)


CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from conftest import Plane, make_trainer
from pathlib import Path

class Mortal(Plane):
    calls = -1000000
    def augment(self, rng, x, y):
        self.calls += 1
        if self.calls == 33:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().augment(rng, x, y)

family = Mortal()
trainer = make_trainer(Path(sys.argv[2]), family, steps=int(sys.argv[3]))
if sys.argv[4] == "dies":
    family.calls = 0
trainer.train()
"""


def _child(training, run: Path, steps: int, fate: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(training.folder), str(run), str(steps), fate]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_a_killed_run_resumes_bit_for_bit(training, whole: Path, tmp_path) -> None:
    """A process killed in step 33 resumes from the checkpoint of step 20, and no row of the metrics is lost."""
    with _child(training, tmp_path, 40, "dies") as child:
        child.communicate(timeout=60)
        assert child.returncode == -signal.SIGKILL
    assert load_checkpoint(tmp_path / LAST).step == 20
    assert training.trainer(tmp_path, resume=True).train().finished
    _assert_same_run(tmp_path, whole)


def test_ctrl_c_in_a_real_process_leaves_a_checkpoint_that_resumes(training, tmp_path) -> None:
    """The signal comes at any moment. The process ends with exit code 0, and another one resumes the run."""
    with _child(training, tmp_path, 10**6, "lives") as child:
        while child.poll() is None and not ((tmp_path / LAST).exists() and _rows(tmp_path)):
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, words = child.communicate(timeout=60)
        assert child.returncode == 0, words
    step = load_checkpoint(tmp_path / LAST).step
    assert 10 <= step < 10**6  # there are rows from step 10 on
    family = _disturbed(training, 3, _interrupt)
    trainer = training.trainer(tmp_path, family, resume=True, steps=10**6)
    family.armed = True
    assert trainer.train().step == step + 3


IMAGES = {"tasks_per_step": 2, "shots": 1, "queries": 2, "training_tasks": 4, "samples_per_task": 2}
IMAGES |= {"steps": 4, "validation_every": 2, "validation_tasks": 2}
EQUIVARIANT = LearnerConfig(width=8, depth=1, filters=3, inner_steps=2, form="equivariant")
CONVOLUTION = LearnerConfig(network="conv", depth=0, bias=False, form="kronecker", inner_steps=1)


def test_images_train_and_resume_bit_for_bit(training, tmp_path) -> None:
    """A convolution with a symmetry matrix maps images to images. Ctrl-C in the first step changes no number."""
    family = copy(load_family("conv-c8"))
    changes = IMAGES | {"learner": CONVOLUTION, "insist_on_augmentation": False}
    assert training.trainer(tmp_path / "whole", family, **changes).train().finished
    trainer = training.trainer(tmp_path / "part", family, **changes)
    family.augment = lambda _, x, y: _interrupt(x, y)  # type: ignore[method-assign]
    assert trainer.train().step == 1
    assert training.trainer(tmp_path / "part", load_family("conv-c8"), resume=True, **changes).train().finished
    _assert_same_run(tmp_path / "part", tmp_path / "whole")


def test_the_equivariant_form_trains_resumes_and_keeps_the_group(training, tmp_path) -> None:
    """The checkpoint holds the family's group. Read back without the family, the network commutes with it."""
    changes = {"learner": EQUIVARIANT, "steps": 4, "validation_every": 2}
    assert training.trainer(tmp_path / "whole", **changes).train().finished
    family = training.Plane()
    trainer = training.trainer(tmp_path / "part", family, **changes)
    augment = family.augment
    family.augment = lambda rng, x, y: _interrupt(*augment(rng, x, y))
    assert trainer.train().step == 1
    assert training.trainer(tmp_path / "part", resume=True, **changes).train().finished
    _assert_same_run(tmp_path / "part", tmp_path / "whole")
    checkpoint = load_checkpoint(tmp_path / "part")
    rng, group = np.random.default_rng(0), training.Plane().group()
    x, y = rng.normal(size=(2, 5, 2)).astype(np.float32)
    predict = torch_adapt(checkpoint.learner, checkpoint.normalization)(x, y)
    assert equivariance_error(predict, group, x) < 1e-6
    assert checkpoint.learner.group is not None
    assert np.array_equal(checkpoint.learner.group.outputs, group.outputs)


def test_steps_without_a_finite_gradient_are_skipped(training, tmp_path) -> None:
    """The network stays as it was. Every inner rate shrinks by a tenth per step. 49 such steps do not end the run."""
    family = _disturbed(training, 1, _spoil)
    trainer = training.trainer(tmp_path, family, steps=49)
    before = {name: tensor.clone() for name, tensor in trainer.learner.network.state_dict().items()}
    rule = trainer.learner.rule
    assert isinstance(rule, GradientSteps)
    rates = {name: rate.detach() for name, rate in rule.rates(0).items()}
    family.armed = True
    assert trainer.train().finished
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.learner.network.state_dict().items())
    for name, rate in rule.rates(0).items():
        torch.testing.assert_close(rate.detach(), rates[name] * 0.9**49, rtol=1e-3, atol=0)


def test_fifty_steps_in_a_row_without_a_finite_gradient_end_the_run(training, tmp_path) -> None:
    """The message names the step, and which settings to lower."""
    family = _disturbed(training, 6, _spoil)
    trainer = training.trainer(tmp_path, family, steps=100)
    family.armed = True
    with pytest.raises(TrainingError, match=r"50 outer steps in a row.*step 54.*lower the inner rate"):
        trainer.train()
    assert all(bool(p.isfinite().all()) for p in trainer.learner.parameters())


def test_a_validation_that_is_not_finite_is_no_best(training, tmp_path) -> None:
    """After a first validation loss of NaN, any finite one is better."""
    trainer = training.trainer(tmp_path)
    sound = trainer.validation
    trainer.validation = [torch.full_like(part, torch.nan) for part in sound]
    assert np.isnan(trainer._validate())
    trainer.validation = sound
    assert load_checkpoint(tmp_path).best == np.inf
    loss = trainer._validate()
    assert load_checkpoint(tmp_path).best == loss < np.inf
