"""Noise, outliers and the number of shots: what is drawn, and that a run with them repeats and resumes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msr_envs import load_family
from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.training.checkpoint import LAST, load_checkpoint
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.disturbance import FEW, draw_disturbance, draw_shots, shot_counts, switch_tasks
from msr_runtime.meta.training.preparation import prepare
from msr_runtime.task import TaskBatch

NOISY: dict[str, Any] = {"noise": 0.3, "outliers": 0.1, "outlier_size": 8.0, "fewest_shots": 2}


def interrupt_after(trainer: Any, steps: int) -> None:
    """Let a trainer stop as by Ctrl-C after this many steps."""
    outer_step = trainer._outer_step

    def step() -> Any:
        trainer._stop = trainer.step + 1 == steps
        return outer_step()

    trainer._outer_step = step


def test_noise_and_outliers_have_the_size_and_the_share_that_was_asked_for() -> None:
    """Noise has its standard deviation. An outlier moves every number of a sample by the same size, up or down."""
    rng, shape = np.random.default_rng(0), (200, 50, 2)
    noise = draw_disturbance(rng, shape, TrainSettings(noise=0.3))
    wrong = draw_disturbance(rng, shape, TrainSettings(outliers=0.1, outlier_size=8.0))
    assert noise is not None
    assert wrong is not None
    assert noise.dtype == wrong.dtype == np.float32
    assert noise.std() == pytest.approx(0.3, rel=0.02)
    samples = np.abs(wrong).max(-1)
    np.testing.assert_array_equal(np.unique(wrong), [-8.0, 0.0, 8.0])
    np.testing.assert_array_equal(np.abs(wrong).min(-1), samples)
    assert (samples > 0).mean() == pytest.approx(0.1, rel=0.1)


def test_by_default_nothing_is_drawn() -> None:
    """The generator stays as it was, so a run without noise computes what it always did."""
    rng = np.random.default_rng(0)
    assert draw_disturbance(rng, (4, 5, 2), TrainSettings()) is None
    assert draw_shots(rng, TrainSettings()) == 10
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_shots_are_drawn_evenly_from_their_range() -> None:
    """Both ends of the range are drawn."""
    rng = np.random.default_rng(0)
    drawn = [draw_shots(rng, TrainSettings(shots=6, fewest_shots=4)) for _ in range(3000)]
    numbers, counts = np.unique(drawn, return_counts=True)
    assert numbers.tolist() == [4, 5, 6]
    assert counts.min() > 900


def test_few_numbers_of_shots_reach_from_the_least_to_the_most() -> None:
    """Each is about as many times the one before. A short range is drawn whole."""
    settings = TrainSettings(shots=64, fewest_shots=1)
    counts = shot_counts(settings, few=True)
    assert list(counts) == [1, 2, 3, 6, 11, 20, 35, 64]
    assert len(counts) == FEW
    rng = np.random.default_rng(0)
    assert {draw_shots(rng, settings, few=True) for _ in range(200)} == set(counts)
    assert shot_counts(TrainSettings(shots=10, fewest_shots=4), few=True) == range(4, 11)
    assert list(shot_counts(TrainSettings(), few=True)) == [10]


def test_support_sets_that_switch_begin_with_another_task() -> None:
    """With the samples of one other task, x and y alike. The last sample and all queries are the task's own."""
    tasks, shots = 400, 6
    own = np.arange(tasks, dtype=np.float32)[:, None, None] + np.zeros((tasks, shots, 2), np.float32)
    batch = TaskBatch(own, own.copy(), own[:, :3], own[:, :3])
    seen = switch_tasks(np.random.default_rng(0), batch, TrainSettings(switches=0.25))
    np.testing.assert_array_equal(seen.support_x, seen.support_y)
    assert seen.query_x is batch.query_x
    other = seen.support_x[..., 0] != own[..., 0]
    first = other.sum(1)
    np.testing.assert_array_equal(other, np.arange(shots) < first[:, None])
    assert (first > 0).mean() == pytest.approx(0.25, abs=0.06)
    assert set(first) == set(range(shots))
    np.testing.assert_array_equal(seen.support_x[other][:, 0], np.roll(own, 1, 0)[other][:, 0])
    rng = np.random.default_rng(0)
    assert switch_tasks(rng, batch, TrainSettings()) is batch
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_the_outer_step_sees_the_same_tasks_with_and_without_noise(training, tmp_path) -> None:
    """Only y of the support set differs, and the validation tasks are disturbed as well."""
    seen = {}
    for name, changes in {"clean": {}, "noisy": {"noise": 0.3}, "fewer": {"fewest_shots": 2}}.items():
        trainer = training.trainer(tmp_path / name, **changes)
        taken: list[list[torch.Tensor]] = []
        trainer._differentiate = lambda batch, taken=taken: (taken.append(batch), (torch.zeros(()), {}))[1]
        for trainer.step in range(5):
            trainer._outer_step()
        seen[name] = taken, trainer.validation
    for clean, noisy in zip((*seen["clean"][0], seen["clean"][1]), (*seen["noisy"][0], seen["noisy"][1]), strict=True):
        assert [torch.equal(a, b) for a, b in zip(clean, noisy, strict=True)] == [True, False, True, True]
    for clean, fewer in zip(seen["clean"][0], seen["fewer"][0], strict=True):
        assert torch.equal(clean[0][:, : fewer[0].shape[1]], fewer[0])
        assert torch.equal(clean[2], fewer[2])
    assert len({batch[0].shape[1] for batch in seen["fewer"][0]}) > 1


@pytest.mark.parametrize("traced", [False, True])
def test_a_noisy_run_repeats_and_resumes_bit_for_bit(training, tmp_path, monkeypatch, traced: bool) -> None:
    """The random state comes from the step's number alone: a run that stopped at step 7 goes on as if it had not."""
    changes: dict[str, Any] = {"steps": 20, **NOISY}
    if traced:  # once per number of shots, which takes seconds
        monkeypatch.setattr("msr_runtime.meta.training.trainer.TRACE_FROM", 1)
        small = LearnerConfig(depth=0, filters=4, rule="gradient", inner_steps=1)
        changes |= {"fewest_shots": 4, "learner": small}
    assert training.trainer(tmp_path / "whole", **changes).train().finished
    part = training.trainer(tmp_path / "part", **changes)
    interrupt_after(part, 7)
    assert part.train().step == 7
    assert training.trainer(tmp_path / "part", resume=True, **changes).train().finished
    assert load_checkpoint(tmp_path / "part" / LAST).digest == load_checkpoint(tmp_path / "whole" / LAST).digest
    clean = {name: value for name, value in changes.items() if name not in NOISY}
    assert training.trainer(tmp_path / "clean", **clean).train().finished
    assert load_checkpoint(tmp_path / "clean" / LAST).digest != load_checkpoint(tmp_path / "whole" / LAST).digest


def test_training_with_noise_learns_a_larger_damping(training, tmp_path) -> None:
    """The damping of Gauss-Newton steps rises where the samples cannot be trusted."""
    learner = LearnerConfig(width=8, depth=1, filters=6, rule="gauss-newton", inner_steps=1, damping=0.03)
    dampings = []
    for noise in (0.0, 1.0):
        trainer = training.trainer(tmp_path / str(noise), learner=learner, steps=150, outer_rate=0.03, noise=noise)
        trainer.train()
        dampings.append(float(trainer.learner.rule.damping(0).detach()))
    assert dampings[1] > 1.5 * dampings[0]


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("ring-nav", {"fewest_shots": 11}, "fewest_shots is 11, but shots is 10"),
        ("conv-c8-compressed", {"noise": 0.1}, "y of family .* is a statistic of several samples"),
        ("conv-c8-compressed", {"switches": 0.5}, "switches is 0.5.* has statistics of samples"),
        ("ring-nav", {"switches": 0.5, "tasks_per_step": 1}, "switches is 0.5.* has one task; .*raise tasks_per_step"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(
    family: str, changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    """Before anything is simulated, and by name."""
    loaded = load_family(family)
    learner = LearnerConfig(network="conv", depth=0, bias=False) if "conv" in family else LearnerConfig()
    config = TrainConfig.of(loaded, "msr", learner, TrainSettings(augment=False, **changes))
    with pytest.raises(TrainingError, match=says):
        prepare(loaded, config, progress=False)


def test_the_preparation_says_what_is_disturbed(training) -> None:
    """One row, which a clean run does not have."""

    def rows(**changes: Any) -> list[str]:
        config = training.config(training.Plane(), **changes)
        return [
            row for row in str(prepare(training.Plane(), config, progress=False)).splitlines() if "disturbed" in row
        ]

    assert rows() == []
    assert rows(**NOISY) == [
        "disturbed     noise of 0.3 scales of y, 0.1 of the samples off by 8 scales, 2 to 5 shots",
    ]
