"""A run is used again only if today's code trained it; seeds are put together right."""

from pathlib import Path

import numpy as np
import pytest
import training
from families import METHODS, Scored, summarise
from tables import NEWTON
from training import CODE, Job, Row, learner_config, network_size, train

from msr_envs.registry import load_family
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import learner_class
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.preflight import require_used


def test_a_run_of_other_code_is_trained_anew(tmp_path: Path, capsys, monkeypatch) -> None:
    settings = TrainSettings(steps=2, validation_every=2, training_tasks=20, insist_on_augmentation=True)
    job = Job(tmp_path / "run", "ring-nav", "maml", LearnerConfig(depth=1, width=4), settings)
    train(job)
    metrics = job.run / "metrics.jsonl"
    trained, written = metrics.stat().st_mtime_ns, capsys.readouterr().out
    assert "trained anew" not in written

    train(job)
    assert metrics.stat().st_mtime_ns == trained  # finished, and left alone

    monkeypatch.setattr(training, "digest_of", lambda _roots: "another")
    train(job)
    assert metrics.stat().st_mtime_ns > trained
    assert (job.run / CODE).read_text() == "another"
    assert f"{job.run} was trained by other code than today's: it is trained anew" in capsys.readouterr().out


def test_a_run_without_a_digest_is_trained_anew(tmp_path: Path, capsys) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.safetensors").write_bytes(b"old")
    training.discard_if_outdated(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [CODE]
    assert "trained anew" in capsys.readouterr().out


def test_seeds_are_put_together(monkeypatch) -> None:
    """The ratio and its interval are paired over tasks: twice the error on every task is twice the error, surely."""
    errors = np.array([0.1, 0.2, 0.3])
    scored = [
        Scored(_row(method, seed, float(factor * errors.mean())), factor * errors)
        for method, factor in (("msr", 1.0), ("msr, U random", 2.0))
        for seed in range(2)
    ]
    ours, control = summarise(scored, {"msr": 0.008})
    assert ours["orbit_ratio"] == 1
    assert control["orbit_ratio"] == pytest.approx(2)
    assert control["orbit_ratio_interval"] == pytest.approx((2, 2))
    assert control["outer_rate"] == 0.008
    assert control["seeds"] == [0, 1]
    assert control["error_orbit"] == pytest.approx([0.4, 0.4])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_search_is_built_as_its_table_says(method: str) -> None:
    """With no option that it ignores. MSR reads its size from weights that U makes, and attention counts blocks."""
    config, name = learner_config(method, depth=4, width=24), method.removesuffix(NEWTON)
    family = load_family("ring-nav")
    require_used(TrainConfig.of(family, name, config, TrainSettings()), learner_class(name), family)
    assert network_size(learner_class(name)(config, (18,), (2,), "mse")) == "4x24"


def _row(method: str, seed: int, orbit: float) -> Row:
    return Row(
        family="ring-nav",
        method=method,
        network="1x4",
        seed=seed,
        adapted_parameters=10,
        error_sector=0.1,
        error_orbit=orbit,
        error_wide=0.3,
        equivariance_error=0.1,
        closed_loop_metric="goals reached, share",
        closed_loop_before=0.0,
        closed_loop_after=0.9,
        closed_loop_reference=0.91,
    )
